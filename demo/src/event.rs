//! What happens at the music service, and how it is written in files.
//!
//! JSON lines, one object per event, or CSV with a header; both have the same fields. A field that
//! an event does not use is left out, or empty.
//!
//! | field | of | meaning |
//! |---|---|---|
//! | `time` | all | milliseconds since the Unix epoch, or a date and time such as `2026-01-01T18:30:00Z` (UTC if it names no zone) |
//! | `event` | all | `song`, `play`, `skip` or `rating` |
//! | `song` | all | the song's number |
//! | `user` | `play`, `skip`, `rating` | the user's number |
//! | `title`, `genre` | `song` | text |
//! | `seconds` | `song` | how long it is |
//! | `seconds` | `skip` | how much of it was heard |
//! | `stars` | `rating` | 1 to 5 |
//!
//! Other fields are ignored; no field contains a line break. A song is known from the time of its
//! `song` event on; what users do with a song that is not known counts under the genre `unknown`.
//!
//! ```text
//! {"time":1767225600000,"event":"song","song":7,"title":"Silver River","genre":"jazz","seconds":214}
//! {"time":1767225661250,"event":"play","user":12,"song":7}
//! {"time":1767225692250,"event":"skip","user":12,"song":7,"seconds":31}
//! ```

use compact_str::CompactString;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use millstream::Timestamp;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The years in which events can be: 0 to 9999, in milliseconds since the Unix epoch.
const TIME_MILLIS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// Something that happened at the service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Row")]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    #[serde(rename = "time")]
    pub time_millis: i64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

impl Event {
    /// When it happened, as event time.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.time_millis)
    }
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum What {
    /// A song is added to the catalogue.
    Song(Track),
    /// A user begins to listen to a song.
    Play {
        /// Who.
        user: u64,
        /// To what.
        song: u64,
    },
    /// A user leaves a song before its end.
    Skip {
        /// Who.
        user: u64,
        /// What.
        song: u64,
        /// How much of it was heard.
        seconds: u32,
    },
    /// A user rates a song.
    Rating {
        /// Who.
        user: u64,
        /// What.
        song: u64,
        /// From 1 to 5.
        stars: u8,
    },
}

/// A song of the catalogue.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Track {
    /// Its number.
    pub song: u64,
    /// Its title.
    pub title: CompactString,
    /// Its genre.
    pub genre: CompactString,
    /// Its length.
    pub seconds: u32,
}

impl Track {
    /// What stands for a song that is not in the catalogue.
    pub fn unknown(song: u64) -> Self {
        let title = compact_str::format_compact!("song {song}");
        Self { song, title, genre: CompactString::const_new("unknown"), seconds: 0 }
    }
}

/// An event as CSV files have it: a column for each field that some event has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    #[serde(deserialize_with = "time")]
    time: i64,
    event: Kind,
    user: Option<u64>,
    song: u64,
    title: Option<CompactString>,
    genre: Option<CompactString>,
    seconds: Option<u32>,
    stars: Option<u8>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Song,
    Play,
    Skip,
    Rating,
}

/// Why a row is no event.
#[derive(Debug, thiserror::Error)]
pub enum NoEvent {
    /// It lacks a field.
    #[error("a {kind} needs the field \"{field}\"")]
    Missing {
        /// What it should be.
        kind: &'static str,
        /// What is missing.
        field: &'static str,
    },
    /// It has so many stars.
    #[error("{0} stars: a rating has 1 to 5")]
    Stars(u8),
}

impl TryFrom<Row> for Event {
    type Error = NoEvent;

    fn try_from(row: Row) -> Result<Self, NoEvent> {
        let Row { time, event, user, song, title, genre, seconds, stars } = row;
        let kind = match event {
            Kind::Song => "song",
            Kind::Play => "play",
            Kind::Skip => "skip",
            Kind::Rating => "rating",
        };
        let missing = |field| NoEvent::Missing { kind, field };
        let user = || user.ok_or(missing("user"));
        let seconds = || seconds.ok_or(missing("seconds"));
        let what = match event {
            Kind::Song => What::Song(Track {
                song,
                title: title.ok_or(missing("title"))?,
                genre: genre.ok_or(missing("genre"))?,
                seconds: seconds()?,
            }),
            Kind::Play => What::Play { user: user()?, song },
            Kind::Skip => What::Skip { user: user()?, song, seconds: seconds()? },
            Kind::Rating => match stars.ok_or(missing("stars"))? {
                stars @ 1..=5 => What::Rating { user: user()?, song, stars },
                stars => return Err(NoEvent::Stars(stars)),
            },
        };
        Ok(Self { time_millis: time, what })
    }
}

impl From<Event> for Row {
    fn from(event: Event) -> Self {
        let empty = |kind, user, song| Self {
            time: event.time_millis,
            event: kind,
            user,
            song,
            title: None,
            genre: None,
            seconds: None,
            stars: None,
        };
        match event.what {
            What::Song(Track { song, title, genre, seconds }) => Self {
                title: Some(title),
                genre: Some(genre),
                seconds: Some(seconds),
                ..empty(Kind::Song, None, song)
            },
            What::Play { user, song } => empty(Kind::Play, Some(user), song),
            What::Skip { user, song, seconds } => {
                Self { seconds: Some(seconds), ..empty(Kind::Skip, Some(user), song) }
            }
            What::Rating { user, song, stars } => {
                Self { stars: Some(stars), ..empty(Kind::Rating, Some(user), song) }
            }
        }
    }
}

/// Deserializes a time: a number of milliseconds, or a date and time in text (UTC if it names no
/// zone).
///
/// # Errors
/// If it is neither, or not in the years 0 to 9999.
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(TimeVisitor)
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time: milliseconds since 1970, or such as 2026-01-01T18:30:00Z")
    }

    fn visit_i64<E: de::Error>(self, millis: i64) -> Result<i64, E> {
        let fits = TIME_MILLIS.contains(&millis);
        fits.then_some(millis)
            .ok_or_else(|| E::custom(format!("{millis} milliseconds are beyond the year 9999")))
    }

    fn visit_u64<E: de::Error>(self, millis: u64) -> Result<i64, E> {
        self.visit_i64(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        let with_zone = || text.parse::<jiff::Timestamp>();
        let without = |_| text.parse::<DateTime>()?.to_zoned(TimeZone::UTC).map(|z| z.timestamp());
        let time = with_zone().or_else(without);
        time.map(jiff::Timestamp::as_millisecond)
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_connectors::format::{Csv, Format, JsonLines};

    fn song() -> Event {
        let what = What::Song(Track {
            song: 7,
            title: "Silver \"River\", live".into(),
            genre: "jazz".into(),
            seconds: 214,
        });
        Event { time_millis: 1_767_225_600_000, what }
    }

    fn events() -> Vec<Event> {
        let at = |time_millis, what| Event { time_millis, what };
        vec![
            song(),
            at(1, What::Play { user: 12, song: 7 }),
            at(2, What::Skip { user: 12, song: 7, seconds: 31 }),
            at(3, What::Rating { user: 12, song: 7, stars: 5 }),
        ]
    }

    fn parse<F: Format<Record = Event>>(mut format: F, text: &str) -> Vec<Result<Event, String>> {
        format.begin(None);
        let mut bytes = text.as_bytes();
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (consumed, record) = format.next(bytes);
            bytes = &bytes[consumed..];
            found.extend(record.map(|record| record.map_err(|problem| problem.message)));
        }
        found
    }

    fn json(text: &str) -> Result<Event, String> {
        parse(JsonLines::new(), text).remove(0)
    }

    #[test]
    fn events_come_back_from_json_and_from_csv() {
        use millstream_connectors::{CsvEncoder, Encoder, JsonEncoder};
        let (mut lines, mut csv) = (Vec::new(), Vec::new());
        let mut encoder = CsvEncoder::new();
        for event in events() {
            JsonEncoder.encode(&event, &mut lines).unwrap();
            encoder.encode(&Row::from(event), &mut csv).unwrap();
        }
        let lines = String::from_utf8(lines).unwrap();
        let csv = String::from_utf8(csv).unwrap();
        let expected: Vec<_> = events().into_iter().map(Ok).collect();
        assert_eq!(parse(JsonLines::new(), &lines), expected, "{lines}");
        assert_eq!(parse(Csv::new(), &csv), expected, "{csv}");
        assert_eq!(
            lines.lines().nth(1),
            Some(r#"{"time":1,"event":"play","user":12,"song":7}"#),
            "unused fields are left out"
        );
        assert!(csv.starts_with("time,event,user,song,title,genre,seconds,stars\n"), "{csv}");
    }

    #[test]
    fn times_may_be_text() {
        for (text, millis) in [
            ("\"1970-01-01T00:00:01Z\"", 1_000),
            ("\"1970-01-01 00:00:01.5\"", 1_500),
            ("\"1970-01-01T01:00:00+01:00\"", 0),
            ("-5", -5),
        ] {
            let event = json(&format!(r#"{{"time":{text},"event":"play","user":1,"song":2}}"#));
            assert_eq!(event.unwrap().time_millis, millis, "{text}");
        }
        let csv = parse(Csv::new(), "song,user,event,time,more\n2,1,play,1970-01-01 00:00:02,x\n");
        assert_eq!(csv[0].as_ref().unwrap().time_millis, 2_000);
    }

    #[test]
    fn what_is_no_event_says_why() {
        for (line, reason) in [
            (r#"{"time":1,"event":"play","song":2}"#, r#"a play needs the field "user""#),
            (r#"{"time":1,"event":"song","song":2,"title":"x","seconds":1}"#, r#""genre""#),
            (r#"{"time":1,"event":"rating","user":1,"song":2,"stars":6}"#, "6 stars"),
            (r#"{"time":"soon","event":"play","user":1,"song":2}"#, "milliseconds since 1970"),
            (r#"{"time":999999999999999,"event":"play","user":1,"song":2}"#, "year 9999"),
            (r#"{"time":1,"event":"dance","user":1,"song":2}"#, "unknown variant `dance`"),
            (r#"{"event":"play","user":1,"song":2}"#, "missing field `time`"),
        ] {
            let error = json(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
