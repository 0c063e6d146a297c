//! A list that does not allocate for one element.

use millstream_state::{AlignedVec, Data, DecodeError, EncodeError};

/// At least one element, in the order in which they came.
pub struct OneOrMore<T> {
    first: T,
    more: Vec<T>,
}

impl<T> OneOrMore<T> {
    #[inline]
    pub(super) fn one(first: T) -> Self {
        Self { first, more: Vec::new() }
    }

    #[inline]
    pub(super) fn push(&mut self, value: T) {
        self.more.push(value);
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// As the list of the elements' encodings: that an element has one does not say that it is rkyv's.
impl<T: Data> Data for OneOrMore<T> {
    const ARCHIVED_BYTES: usize = T::ARCHIVED_BYTES;

    fn encode(&self, out: &mut AlignedVec) -> Result<(), EncodeError> {
        let mut encode = |value: &T| value.encode(out).map(|()| out.to_vec());
        let first = encode(&self.first)?;
        let more = self.more.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        (first, more).encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (first, more) = <(Vec<u8>, Vec<Vec<u8>>)>::decode(bytes)?;
        Ok(Self {
            first: T::decode(&first)?,
            more: more.iter().map(|value| T::decode(value)).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_survives_encoding(values in prop::collection::vec(".{0,9}", 1..5)) {
            let mut list = OneOrMore::one(values[0].clone());
            values[1..].iter().for_each(|value| list.push(value.clone()));
            let mut out = AlignedVec::new();
            list.encode(&mut out).unwrap();
            let decoded = OneOrMore::<String>::decode(&out).unwrap();
            prop_assert_eq!(decoded.iter().cloned().collect::<Vec<_>>(), values);
        }
    }
}
