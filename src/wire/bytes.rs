//! Reading and writing fields of fixed size at a byte offset. Every function panics when the field
//! lies beyond the slice.

#[inline(always)]
pub(crate) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[inline(always)]
pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(get(bytes, at))
}

#[inline(always)]
pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(get(bytes, at))
}

#[inline(always)]
pub(crate) fn set<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

#[inline(always)]
pub(crate) fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    set(bytes, at, value.to_be_bytes());
}

#[inline(always)]
pub(crate) fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    set(bytes, at, value.to_be_bytes());
}
