"""What was measured: one record for each step, kept as JSON after each of them."""

import json
import statistics

# The CPU time of a delivery, a message or a cycle, in the generator's answer: µs each.
CPU = "server_cpu_s_per_million"
# Keys of the generator's answer that have to be 0.
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
        """Adds what a step has found: `result`, the numbers, or `why`, a text, if it has failed."""
        self.records.append({"work": work, "server": server, "round": number, **found})
        self.save()

    def save(self):
        # A run that is interrupted while it writes leaves the file of the step before.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"meta": self.meta, "records": self.records}, indent=1))
        new.replace(self.path)

    def values(self, work, server, field):
        """The numbers of all rounds: `{round: number}`."""
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
    """Joins the numbers of the same rounds: only they were taken close together."""
    return [join(ours[number], theirs[number]) for number in sorted(ours) if theirs.get(number)]
