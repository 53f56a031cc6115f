//! FaceSwap (SSLFER 3.2.2); the swap itself comes with the next commit, and until then every positive stays plain.

/// A face crop and where its features lie.
#[derive(Clone, Copy, Debug)]
pub struct FacePicture<'a> {
    /// `S * S` RGB triples.
    pub rgb: &'a [u8],
    /// iBUG order, `[x0, y0, x1, ..]` in shares of the picture's sides.
    pub landmarks: &'a [f32; 136],
}

/// Buffers of a swap.
#[derive(Debug, Default)]
pub struct SwapScratch;

/// Pastes the features of `expression` onto `identity`.
///
/// # Errors
/// Always, for now.
pub fn face_swap(
    _identity: FacePicture<'_>,
    _expression: FacePicture<'_>,
    _side_px: u32,
    _scratch: &mut SwapScratch,
    _out: &mut [u8],
) -> Result<[f32; 136], ()> {
    Err(())
}
