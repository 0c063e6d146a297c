//! Files of settings, whatever is in them: read, or refused with the file's name and what to do.

mod soaking;

use millstream::{Config, ConfigError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use soaking::soak;
use std::fs;

fn entry() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        6 => select(vec![
            "slots", "parallelism", "max_parallelism", "max-parallelism", "idle", "pin",
            "batch_bytes", "credits", "flush_interval", "latency_interval",
        ]).prop_map(str::to_owned),
        1 => "[a-z_.\"\\[\\]]{0,8}",
    ];
    let value = prop_oneof![
        select(vec![
            "1",
            "0",
            "-1",
            "1024",
            "1025",
            "18446744073709551616",
            "1.5",
            "true",
            "nan",
            "inf",
            "\"park\"",
            "\"spin\"",
            "\"spin 20us then park\"",
            "\"spin 1e9h then park\"",
            "\"off\"",
            "\"1ms\"",
            "\"1e400s\"",
            "\"999999999999999999999h\"",
            "\".s\"",
            "\"µs\"",
            "\"1µs\"",
            "[1, 2]",
            "{ a = 1 }",
            "1979-05-27",
            "\"\"",
            "'''",
            "",
        ])
        .prop_map(str::to_owned),
        "\"[^\"\\\\]{0,10}\"",
    ];
    prop_oneof![
        8 => (key, value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        1 => any::<String>(),
    ]
}

#[test]
fn soak_settings_are_read_or_refused_in_words() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("settings.toml");
    let file = prop_oneof![
        6 => vec(entry(), 0..5).prop_map(|entries| entries.concat().into_bytes()),
        1 => vec(any::<u8>(), 0..60),
    ];
    soak(file, |content| {
        fs::write(&path, &content).unwrap();
        match Config::default().with_file(&path) {
            Ok(config) => prop_assert!((1..=1_024).contains(&config.slots())),
            Err(error) => {
                let words = error.to_string();
                prop_assert!(words.starts_with(&path.display().to_string()), "{words}");
                let says_what_to_do = match error {
                    ConfigError::UnknownKey { .. } => words.contains("the settings are slots,"),
                    ConfigError::Value { key, .. } => words.contains(&format!("{key} = ")),
                    ConfigError::Toml { .. } => words.contains("line "),
                    ConfigError::Read { .. } => str::from_utf8(&content).is_err(),
                };
                prop_assert!(says_what_to_do, "{words}");
            }
        }
        Ok(())
    })
}
