//! Body of `lianxi.courier.v1`, and a courier file as it is inside its seal.
//!
//! The file: a mark with the version, a head (length in 4 bytes, big-endian), then the blocks, each
//! with its length in the same way. A block is frames of the link, each with its length, deflated
//! (RFC 1951). Maps bytes alone: believes nobody. Promises that no block unpacks to more than
//! [`MAX_UNPACKED_BYTES`], whatever it says.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use lianxi_proto::types::v1 as pb;
use prost::Message as _;

use super::{Envelope, header::Malformed};

/// How every file begins; the last byte is the version of the format.
const MARK: &[u8; 15] = b"lianxi-courier\x01";

/// Most blocks of one file: their digests fit the manifest.
pub const MAX_BLOCKS: usize = 1_024;

/// Bytes of frames from which a block is full.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Most bytes that a block unpacks to: one that was nearly full, and a largest frame.
pub const MAX_UNPACKED_BYTES: usize = 384 * 1024;

/// Longest head: a chain of four levels and the manifest take a quarter of it.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// What the sender signs of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// Number of the export.
    pub number: u64,
    /// Place among its files, from 1.
    pub part: u32,
    /// No further one comes.
    pub last: bool,
    /// Digests of the blocks.
    pub blocks_sha256: Vec<[u8; 32]>,
}

/// A file inside its seal.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Delegations down to the sender's.
    pub chain: Vec<Envelope>,
    /// The signed manifest.
    pub manifest: Envelope,
    /// The blocks, deflated.
    pub blocks: Vec<Bytes>,
}

/// Serialises the body.
pub fn encode_body(manifest: &Manifest) -> Vec<u8> {
    pb::CourierManifest {
        number: manifest.number,
        part: manifest.part,
        last: manifest.last,
        blocks_sha256: manifest.blocks_sha256.iter().map(|digest| digest.to_vec()).collect(),
    }
    .encode_to_vec()
}

/// Parses the body.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<Manifest, Malformed> {
    let body = pb::CourierManifest::decode(bytes);
    let body = body.map_err(|error| Malformed::new("body", error))?;
    if body.number == 0 || body.part == 0 {
        return Err(Malformed::new("body.number", "number and part begin at 1"));
    }
    if body.blocks_sha256.is_empty() || body.blocks_sha256.len() > MAX_BLOCKS {
        return Err(Malformed::new("body.blocks_sha256", "a file has 1 to 1,024 blocks"));
    }
    let digests = body.blocks_sha256.into_iter().map(<[u8; 32]>::try_from);
    let blocks_sha256 = digests
        .collect::<Result<_, _>>()
        .map_err(|_| Malformed::new("body.blocks_sha256", "a digest has 32 bytes"))?;
    Ok(Manifest { number: body.number, part: body.part, last: body.last, blocks_sha256 })
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("invariant: a part of a file is below 4 GiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(part);
}

/// Takes the next part off `bytes`.
fn take(bytes: &mut Bytes, limit: usize, field: &'static str) -> Result<Bytes, Malformed> {
    let cut_off = || Malformed::new(field, "is cut off");
    let length = bytes.first_chunk::<LENGTH_BYTES>().ok_or_else(cut_off)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut_off())?;
    if length > limit {
        return Err(Malformed::new(field, format!("has {length} bytes, more than {limit}")));
    }
    if bytes.len() - LENGTH_BYTES < length {
        return Err(cut_off());
    }
    drop(bytes.split_to(LENGTH_BYTES));
    Ok(bytes.split_to(length))
}

/// Writes a file.
pub fn write(file: &File) -> Vec<u8> {
    let head = pb::CourierHead { chain: file.chain.clone(), manifest: Some(file.manifest.clone()) };
    let mut bytes = MARK.to_vec();
    put(&mut bytes, &head.encode_to_vec());
    file.blocks.iter().for_each(|block| put(&mut bytes, block));
    bytes
}

/// Reads a file. Its blocks are neither compared with the manifest nor unpacked.
///
/// # Errors
///
/// [`Malformed`] with the part at fault.
pub fn read(bytes: &Bytes) -> Result<File, Malformed> {
    let mut rest = bytes.clone();
    if !rest.starts_with(MARK) {
        let reason = "is none of a version that this program knows";
        return Err(Malformed::new("courier file", reason));
    }
    drop(rest.split_to(MARK.len()));
    let head = take(&mut rest, MAX_HEAD_BYTES, "head")?;
    let head = pb::CourierHead::decode(head).map_err(|error| Malformed::new("head", error))?;
    let manifest = head.manifest.ok_or_else(|| Malformed::new("head.manifest", "is missing"))?;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        if blocks.len() == MAX_BLOCKS {
            return Err(Malformed::new("blocks", "are more than 1,024"));
        }
        // Deflate adds five bytes to each 64 KiB that it cannot shorten.
        blocks.push(take(&mut rest, MAX_UNPACKED_BYTES + 1_024, "blocks")?);
    }
    Ok(File { chain: head.chain, manifest, blocks })
}

/// Packs frames into a block.
pub fn pack(frames: &[Bytes]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let mut plain = Vec::new();
    frames.iter().for_each(|frame| put(&mut plain, frame));
    let packed = encoder.write_all(&plain).and_then(|()| encoder.finish());
    packed.expect("invariant: memory takes every write")
}

/// Unpacks a block into its frames.
///
/// # Errors
///
/// [`Malformed`]: it does not unpack, or to more than it may.
pub fn unpack(block: &[u8]) -> Result<Vec<Bytes>, Malformed> {
    let limit = MAX_UNPACKED_BYTES as u64 + 1;
    let mut plain = Vec::new();
    let read = DeflateDecoder::new(block).take(limit).read_to_end(&mut plain);
    read.map_err(|error| Malformed::new("blocks", error))?;
    if plain.len() > MAX_UNPACKED_BYTES {
        let reason = format!("unpack to more than {MAX_UNPACKED_BYTES} bytes");
        return Err(Malformed::new("blocks", reason));
    }
    let mut rest = Bytes::from(plain);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        frames.push(take(&mut rest, MAX_UNPACKED_BYTES, "frame")?);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let frames = [Bytes::from_static(b"one"), Bytes::from(vec![7; 70_000])];
        File {
            chain: vec![Envelope { payload: Bytes::from_static(b"grant"), ..Envelope::default() }],
            manifest: Envelope { payload: Bytes::from_static(b"manifest"), ..Envelope::default() },
            blocks: vec![pack(&frames).into(), pack(&frames[..1]).into()],
        }
    }

    #[test]
    fn a_file_and_its_frames_survive_writing_and_reading() {
        let read = read(&write(&file()).into()).unwrap();
        assert_eq!(read, file());
        let frames = unpack(&read.blocks[0]).unwrap();
        assert_eq!((&frames[0][..], frames[1].len()), (&b"one"[..], 70_000));
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_malformed_or_lacks_blocks() {
        let whole = write(&file());
        for length in 0..whole.len() {
            match read(&whole[..length].to_vec().into()) {
                Ok(cut) => assert!(cut.blocks.len() < 2, "{length}"),
                Err(error) => assert!(!error.reason.is_empty()),
            }
        }
    }

    #[test]
    fn a_block_that_unpacks_to_too_much_is_refused_before_it_fills_the_memory() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        for _ in 0..64 {
            encoder.write_all(&[0; 1024 * 1024]).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 100_000);
        let error = unpack(&bomb).unwrap_err();
        assert!(error.reason.contains("unpack to more than"), "{error}");
    }

    #[test]
    fn a_manifest_survives_and_a_broken_one_names_its_field() {
        let manifest = Manifest { number: 3, part: 1, last: true, blocks_sha256: vec![[7; 32]] };
        assert_eq!(decode_body(&encode_body(&manifest)).unwrap(), manifest);
        let none = Manifest { blocks_sha256: Vec::new(), ..manifest };
        assert_eq!(decode_body(&encode_body(&none)).unwrap_err().field, "body.blocks_sha256");
        let zero = Manifest { number: 0, blocks_sha256: vec![[7; 32]], ..none };
        assert_eq!(decode_body(&encode_body(&zero)).unwrap_err().field, "body.number");
    }
}
