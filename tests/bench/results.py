"""The results: one record per step, saved as JSON after each step."""

import json
import statistics

# Field of the generator's output: CPU time of a delivery, message or cycle, in µs.
CPU = "server_cpu_s_per_million"
# Fields of the generator's output that have to be 0.
ERRORS = ("lost", "duplicated", "out_of_order", "misdelivered", "died", "failed", "stalled")


class Results:
    def __init__(self, path, meta=None):
        self.path = path
        self.meta = meta or {}
        self.records = []

    @classmethod
    def load(cls, path):
        content = json.loads(path.read_text())
        results = cls(path, content["meta"])
        results.records = content["records"]
        return results

    def add(self, work, server, number, **found):
        """Adds the outcome of a step: `result` with its numbers, or `why` with the reason of its failure."""
        self.records.append({"work": work, "server": server, "round": number, **found})
        self.save()

    def save(self):
        # Replaces the file atomically: an interrupted write leaves the file of the previous step.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"meta": self.meta, "records": self.records}, indent=1))
        new.replace(self.path)

    def values(self, work, server, field):
        """Returns the numbers of all rounds: `{round: number}`."""
        found = {}
        for record in self.records:
            number = record.get("result", {}).get(field)
            if record["work"] == work and record["server"] == server and number is not None:
                found[record["round"]] = number
        return found

    def median(self, work, server, field):
        found = self.values(work, server, field)
        return statistics.median(found.values()) if found else None

    def failures(self, work, server):
        return [record for record in self.records if record["work"] == work and record["server"] == server and "why" in record]

    def any(self, work, server):
        return any(record["work"] == work and record["server"] == server and "result" in record for record in self.records)

    def errors(self, record):
        result = record.get("result", {})
        return {key: result[key] for key in ERRORS if result.get(key)}

    def servers(self):
        return list(dict.fromkeys(record["server"] for record in self.records))


def paired(ours, theirs, join):
    """Joins the numbers of the same rounds, since only these were taken close together."""
    return [join(ours[number], theirs[number]) for number in sorted(ours) if theirs.get(number)]
