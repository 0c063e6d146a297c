//! Values that are archived as they lie in memory.
#![expect(unsafe_code, reason = "the bytes of a value")]

use rkyv::Archive;

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
        let is_little = cfg!(target_endian = "little");
        assert_eq!(check(0x0102_0304_0506_0708u64), is_little);
        assert_eq!(check(-1.5f64), is_little);
        assert_eq!(check([7u32, 8, 9]), is_little);
        assert!(check(3u8));
        assert!(!check("text".to_owned()) && !check(Some(1u64)));
    }
}
