//! [`SliceFrame`] against a plain `Vec<u8>`, over arbitrary sequences of operations: both accept the same ones and
//! hold the same bytes.

use gre_common::frame::{Frame, SliceFrame};

/// Bytes of an Ethernet header, below which no frame may shrink.
const MINIMUM: usize = 14;
const TAILROOM: usize = 100;

/// The first byte is the length of the frame beyond the minimum; each four bytes after it are one operation: kind,
/// value, and a 16-bit offset or length.
pub(crate) fn run(bytes: &[u8]) {
    let Some((length, operations)) = bytes.split_first() else {
        return;
    };
    let mut model: Vec<u8> = (0..MINIMUM as u8 + length % 200).collect();
    let capacity = SliceFrame::HEADROOM + model.len() + TAILROOM;
    let mut memory = vec![0; capacity];
    let mut frame = SliceFrame::new(&mut memory, &model).expect("the memory is sized for it");
    let mut headroom = SliceFrame::HEADROOM;

    for operation in operations.chunks_exact(4) {
        let (value, at) = (
            operation[1],
            usize::from(u16::from_be_bytes([operation[2], operation[3]])),
        );
        match operation[0] % 5 {
            0 => {
                let expected = model.get(at..at + 4);
                assert_eq!(
                    frame
                        .read::<[u8; 4]>(at)
                        .ok()
                        .as_ref()
                        .map(<[u8; 4]>::as_slice),
                    expected
                );
            }
            1 => {
                let written = frame.write(at, [value; 4]);
                match model.get_mut(at..at + 4) {
                    Some(place) => place.fill(value),
                    None => assert!(written.is_err()),
                }
            }
            2 => {
                let length = usize::from(value);
                let within = at + length <= model.len();
                assert_eq!(frame.sum(at, length).is_ok(), within);
            }
            3 => {
                let delta = i32::from(value as i8);
                let moved = headroom.checked_add_signed(delta as isize);
                let fits = moved.is_some_and(|start| start + MINIMUM <= headroom + model.len());
                assert_eq!(frame.move_head(delta).is_ok(), fits);
                if fits {
                    move_head(&mut model, delta, frame.bytes());
                    headroom = moved.unwrap_or_default();
                }
            }
            _ => {
                let fits = at >= MINIMUM && headroom + at <= capacity;
                assert_eq!(frame.set_length(at).is_ok(), fits);
                if fits {
                    model.resize(at, 0);
                }
            }
        }
        assert_eq!(frame.bytes(), model);
    }
}

/// Bytes that a move adds are undefined: the model takes them over from the frame.
fn move_head(model: &mut Vec<u8>, delta: i32, frame: &[u8]) {
    let bytes = delta.unsigned_abs() as usize;
    if delta > 0 {
        model.drain(..bytes);
    } else {
        model.splice(..0, frame[..bytes].iter().copied());
    }
}
