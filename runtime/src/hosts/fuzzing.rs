//! What comes from other members before rows do.

use super::connection::{HELLO_BYTES, Hello};
use super::files::{Answer, Request};
use super::message::{Message, Order, Told, read, write};
use std::fmt::Debug;
use std::io;

/// Reads a message of a kind: an order, what is told, what is wanted of files, an answer to that, or the first
/// thing that is said by a connection.
///
/// # Errors
/// If the bytes are none.
///
/// # Panics
/// If one that is accepted is not the same when it is written and read again.
pub fn check_message(kind: u8, bytes: &[u8]) -> io::Result<()> {
    match kind % 5 {
        0 => check::<Order>(bytes),
        1 => check::<Told>(bytes),
        2 => check::<Request>(bytes),
        3 => check::<Answer>(bytes),
        _ => check_hello(bytes),
    }
}

fn check<M: Message + PartialEq + Debug>(bytes: &[u8]) -> io::Result<()> {
    let message: M = read(bytes)?;
    let mut written = Vec::new();
    write(&message, &mut written)?;
    assert_eq!(read::<M>(&*written)?, message);
    Ok(())
}

fn check_hello(bytes: &[u8]) -> io::Result<()> {
    let hello = bytes.first_chunk::<HELLO_BYTES>().and_then(Hello::decode);
    let hello = hello.ok_or(io::ErrorKind::InvalidData)?;
    assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    Ok(())
}

#[cfg(test)]
mod tests;
