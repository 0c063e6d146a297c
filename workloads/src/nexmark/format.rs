//! Result rows as text, in the format of the golden results: fields joined by `|`, no header, no
//! quotes, timestamps in UTC to the millisecond, decimals with all their places.

/// Appends the rows of a result to a buffer, field by field.
///
/// ```
/// use millstream_workloads::nexmark::format::RowWriter;
///
/// let mut out = Vec::new();
/// let mut rows = RowWriter::new(&mut out);
/// rows.integer(1000).integer(758).timestamp(1_436_918_392_000).end_row();
/// assert_eq!(out, b"1000|758|2015-07-14 23:59:52.000\n");
/// ```
#[derive(Debug)]
pub struct RowWriter<'a> {
    out: &'a mut Vec<u8>,
    inside_row: bool,
}

impl<'a> RowWriter<'a> {
    /// Begins a row at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        RowWriter { out, inside_row: false }
    }

    /// A whole number.
    pub fn integer(&mut self, value: u64) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self
    }

    /// A decimal with three places, given in thousandths.
    pub fn thousandths(&mut self, value: u64) -> &mut Self {
        self.integer(value / 1_000);
        self.out.push(b'.');
        self.digits(value % 1_000, 3);
        self
    }

    /// Text, as it is.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(value.as_bytes());
        self
    }

    /// A point in time, given in milliseconds since the Unix epoch, as `YYYY-MM-DD HH:MM:SS.mmm`.
    pub fn timestamp(&mut self, millis: u64) -> &mut Self {
        const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;
        self.separate();
        let (year, month, day) = civil_date(millis / DAY_MILLIS);
        let in_day = millis % DAY_MILLIS;
        for (value, width, end) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b' '),
            (in_day / 3_600_000, 2, b':'),
            (in_day / 60_000 % 60, 2, b':'),
            (in_day / 1_000 % 60, 2, b'.'),
        ] {
            self.digits(value, width);
            self.out.push(end);
        }
        self.digits(in_day % 1_000, 3);
        self
    }

    /// Ends the row; the next field begins another.
    pub fn end_row(&mut self) {
        self.out.push(b'\n');
        self.inside_row = false;
    }

    fn separate(&mut self) {
        if self.inside_row {
            self.out.push(b'|');
        }
        self.inside_row = true;
    }

    /// At least `width` digits, filled up with zeros.
    fn digits(&mut self, value: u64, width: usize) {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(value);
        for _ in digits.len()..width {
            self.out.push(b'0');
        }
        self.out.extend_from_slice(digits.as_bytes());
    }
}

/// Year, month and day of a day since the Unix epoch, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day comes last and the months before it have
/// lengths that a linear formula gives (Richards' algorithm, *Explanatory Supplement to the
/// Astronomical Almanac*, 2013).
fn civil_date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097; // 400 years
    let days = days + 719_468; // since 0000-03-01
    let (era, in_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(write: impl FnOnce(&mut RowWriter<'_>)) -> String {
        let mut out = Vec::new();
        let mut rows = RowWriter::new(&mut out);
        write(&mut rows);
        rows.end_row();
        String::from_utf8(out).expect("rows are text")
    }

    #[test]
    fn rows_of_q1_have_exact_thousandths() {
        let mut out = Vec::new();
        let mut rows = RowWriter::new(&mut out);
        for (price, millis, extra) in
            [(137_428, 581, "ksiuzislfc"), (231_158, 245, "iohaykydqf"), (2_615, 285, "ylpueycirp")]
        {
            rows.integer(1000).integer(1000).thousandths(price * 908);
            rows.timestamp(1_436_918_400_000 + millis).text(extra).end_row();
        }
        assert_eq!(
            String::from_utf8(out).expect("rows are text"),
            "1000|1000|124784.624|2015-07-15 00:00:00.581|ksiuzislfc\n\
             1000|1000|209891.464|2015-07-15 00:00:00.245|iohaykydqf\n\
             1000|1000|2374.420|2015-07-15 00:00:00.285|ylpueycirp\n"
        );
    }

    #[test]
    fn rows_of_q3_are_text_and_a_number() {
        let written = row(|r| _ = r.text("deiter abrams").text("bend").text("id").integer(2797));
        assert_eq!(written, "deiter abrams|bend|id|2797\n");
    }

    #[test]
    fn rows_of_q5_begin_before_the_first_event() {
        let written = row(|r| {
            r.integer(1000).integer(758).timestamp(1_436_918_392_000).timestamp(1_436_918_402_000);
        });
        assert_eq!(written, "1000|758|2015-07-14 23:59:52.000|2015-07-15 00:00:02.000\n");
    }

    #[test]
    fn rows_of_q11_keep_leading_zeros_of_milliseconds() {
        let written = row(|r| {
            r.integer(1000).integer(51).timestamp(1_436_918_400_048).timestamp(1_436_918_445_711);
        });
        assert_eq!(written, "1000|51|2015-07-15 00:00:00.048|2015-07-15 00:00:45.711\n");
    }

    #[test]
    fn an_empty_field_is_kept() {
        assert_eq!(row(|r| _ = r.text("").integer(0).text("")), "|0|\n");
    }

    #[test]
    fn thousandths_below_one_have_a_leading_zero() {
        assert_eq!(
            row(|r| _ = r.thousandths(0).thousandths(7).thousandths(90)),
            "0.000|0.007|0.090\n"
        );
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let leap = |year: u64| {
            year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..292_194 {
            assert_eq!(civil_date(days), (year, month, day), "day {days}");
            let length = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
