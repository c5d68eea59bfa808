//! Points in time as text.

/// Most seconds before and after 1970 of a date in JavaScript (ECMA-262, "Time Values and Time Range").
const MAX_SECONDS: u64 = 8_640_000_000_000;

const SECONDS_PER_DAY: i64 = 86_400;

/// The days of the week, from that of 1970-01-01 on.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Returns a time as `toISOString()` does, without the digits below milliseconds; `None` if JavaScript has no such date.
pub fn iso_text(seconds: i64, nanoseconds: u32) -> Option<String> {
    if nanoseconds > 999_999_999 || seconds.unsigned_abs() > MAX_SECONDS {
        return None;
    }
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        year => format!("{year:+07}"),
    };
    let milliseconds = nanoseconds / 1_000_000;
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"))
}

/// Returns a time as `Date.prototype.toString()` does in UTC (ECMA-262, section 21.4.4.41.4).
pub(super) fn date_text(seconds: u64) -> String {
    let seconds = i64::try_from(seconds.min(MAX_SECONDS)).unwrap_or_default();
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = civil(days);
    let name = |names: &[&'static str], index: i64| usize::try_from(index).map_or("", |index| names[index]);
    let (weekday, month) = (name(&WEEKDAYS, days % 7), name(&MONTHS, month - 1));
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{weekday} {month} {day:02} {year:04} {hour:02}:{minute:02}:{second:02} GMT+0000 (Coordinated Universal Time)"
    )
}

/// Returns year, month and day of a day since 1970, by Howard Hinnant's `civil_from_days`: years begin in March, so that the
/// leap day is the last one.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let day_of_era = day.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_javascript_writes_it() {
        for (seconds, expected) in [
            (0, "Thu Jan 01 1970 00:00:00"),
            (951_782_399, "Mon Feb 28 2000 23:59:59"),
            (951_782_400, "Tue Feb 29 2000 00:00:00"),
            (1_796_056_449, "Mon Nov 30 2026 16:34:09"),
            (u64::MAX, "Sat Sep 13 275760 00:00:00"),
        ] {
            assert_eq!(date_text(seconds), format!("{expected} GMT+0000 (Coordinated Universal Time)"));
        }
    }
}
