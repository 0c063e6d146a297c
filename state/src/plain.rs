//! Values that are archived as they lie in memory.
#![expect(unsafe_code, reason = "the bytes of a value")]

use rkyv::Archive;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Strategy};
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;

/// The archived form of a value, if that is what it is in memory: of integers, floats and arrays of
/// them on little-endian hosts, and of structs of such without padding.
#[inline(always)]
pub(crate) fn plain_bytes<T: Archive>(value: &T) -> Option<&[u8]> {
    if !T::COPY_OPTIMIZATION.is_enabled() {
        return None;
    }
    // SAFETY: whoever enables the optimization promises that no byte of the type is uninitialized. The
    // bytes are the value's, and borrowed as it is.
    Some(unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) })
}

/// The archived forms of values, one after the other, if that is what they are in memory.
#[inline]
pub(crate) fn plain_slice<T: Archive>(values: &[T]) -> Option<&[u8]> {
    if !is_plain::<T>() {
        return None;
    }
    // SAFETY: as above, for each of them.
    Some(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
}

/// True if values of the type are archived as they lie in memory, and can be used where they were
/// received. Not so are those without a size, of which bytes do not tell the number, those that must be
/// dropped, and those that are aligned to more than what is received.
fn is_plain<T: Archive>() -> bool {
    T::COPY_OPTIMIZATION.is_enabled()
        && size_of::<T>() > 0
        && align_of::<T>() <= AlignedVec::<16>::ALIGNMENT
        && !std::mem::needs_drop::<T>()
}

/// The values that [`plain_slice`] was made of; `None` if there are none in these bytes, or the type is
/// no such type.
///
/// # Errors
/// If the bytes are not valid for the type.
pub(crate) fn from_plain_slice<T: Archive>(bytes: &[u8]) -> Option<Result<&[T], rancor::Error>>
where
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>,
{
    let count = bytes.len() / size_of::<T>().max(1);
    let values = bytes.as_ptr().cast::<T>();
    if !is_plain::<T>() || !values.is_aligned() || count * size_of::<T>() != bytes.len() {
        return None;
    }
    let mut validator = Validator::new(ArchiveValidator::new(bytes), SharedValidator::new());
    for at in 0..count {
        let context = Strategy::<_, rancor::Error>::wrap(&mut validator);
        // SAFETY: within the bytes, aligned, and initialized; the archived form has the size of the
        // value, as it is the value.
        let checked = unsafe { T::Archived::check_bytes(values.add(at).cast(), context) };
        if let Err(error) = checked {
            return Some(Err(error));
        }
    }
    // SAFETY: so many values fit, aligned. Each is valid as an archived form, which is what the value is
    // in memory.
    Some(Ok(unsafe { std::slice::from_raw_parts(values, count) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_are_the_archived_form() {
        fn check<T>(value: T) -> bool
        where
            T: for<'a> rkyv::Serialize<
                    rkyv::api::high::HighSerializer<
                        rkyv::util::AlignedVec,
                        rkyv::ser::allocator::ArenaHandle<'a>,
                        rkyv::rancor::Error,
                    >,
                >,
        {
            let archived = rkyv::to_bytes::<rkyv::rancor::Error>(&value).unwrap();
            plain_bytes(&value).inspect(|bytes| assert_eq!(*bytes, &archived[..])).is_some()
        }
        assert!(matches!(from_plain_slice::<bool>(&[0, 1]), Some(Ok([false, true]))));
        assert!(matches!(from_plain_slice::<bool>(&[0, 2]), Some(Err(_))));
        assert!(from_plain_slice::<u64>(&[0; 9]).is_none(), "half a value");
        let is_little = cfg!(target_endian = "little");
        assert_eq!(check(0x0102_0304_0506_0708u64), is_little);
        assert_eq!(check(-1.5f64), is_little);
        assert_eq!(check([7u32, 8, 9]), is_little);
        assert!(check(3u8));
        assert!(!check("text".to_owned()) && !check(Some(1u64)));
    }
}
