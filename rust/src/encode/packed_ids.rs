//! A few ids packed into 128 bits, the size of an entry in the cache.

/// The ids of a pre-token and their number, or the place where they overflow to.
pub(super) type PackedIds = u128;

/// The number of ids that are written at a time, whatever the number of ids in an entry.
pub(super) const LANES: usize = 8;

/// The count of an entry whose ids are kept in the overflow.
const OVERFLOW: u8 = u8::MAX;

/// The type of the ids: `u16` if every id of the vocabulary fits into it, else `u32`.
pub(super) trait Id: bytemuck::Pod {
    /// The most ids that fit into [`PackedIds`].
    const MAX_IDS: usize;

    fn from_u32(id: u32) -> Self;

    /// Pack at most [`Id::MAX_IDS`] ids.
    fn pack(ids: &[u32]) -> PackedIds;

    /// Pack the position in the overflow and the number of ids kept there.
    fn pack_overflow(position: u32, count: u16) -> PackedIds;

    /// Unpack the ids and their count, which is above [`LANES`] if the ids are in the overflow.
    ///
    /// All lanes are filled, whatever the count, so that they can be written without a branch.
    fn unpack(packed: PackedIds) -> ([Self; LANES], usize);

    /// Unpack what [`Id::pack_overflow`] packed.
    fn unpack_overflow(packed: PackedIds) -> (u32, u16);
}

/// Eight lanes of 16 bits: up to seven ids, and their count in the last lane.
impl Id for u16 {
    const MAX_IDS: usize = 7;

    #[inline(always)]
    fn from_u32(id: u32) -> Self {
        id as u16
    }

    fn pack(ids: &[u32]) -> PackedIds {
        let mut lanes = [0; 8];
        for (lane, &id) in lanes.iter_mut().zip(ids) {
            *lane = id as u16;
        }
        lanes[7] = ids.len() as u16;
        bytemuck::cast(lanes)
    }

    fn pack_overflow(position: u32, count: u16) -> PackedIds {
        let (low, high) = (position as u16, (position >> 16) as u16);
        bytemuck::cast([low, high, count, 0, 0, 0, 0, u16::from(OVERFLOW)])
    }

    #[inline(always)]
    fn unpack(packed: PackedIds) -> ([Self; LANES], usize) {
        let lanes: [u16; LANES] = bytemuck::cast(packed);
        (lanes, usize::from(lanes[7]))
    }

    fn unpack_overflow(packed: PackedIds) -> (u32, u16) {
        let (lanes, _) = Self::unpack(packed);
        (u32::from(lanes[1]) << 16 | u32::from(lanes[0]), lanes[2])
    }
}

/// From the lowest bits on: 24 bits for each of up to five ids, and their count in the highest 8 bits.
impl Id for u32 {
    const MAX_IDS: usize = 5;

    #[inline(always)]
    fn from_u32(id: u32) -> Self {
        id
    }

    fn pack(ids: &[u32]) -> PackedIds {
        let count = (ids.len() as u128) << 120;
        let lanes = (0..).zip(ids).map(|(i, &id)| u128::from(id) << (24 * i));
        lanes.fold(count, |packed, lane| packed | lane)
    }

    fn pack_overflow(position: u32, count: u16) -> PackedIds {
        let overflow = u128::from(OVERFLOW) << 120;
        overflow | u128::from(count) << 32 | u128::from(position)
    }

    #[inline(always)]
    fn unpack(packed: PackedIds) -> ([Self; LANES], usize) {
        let lane = |i: usize| (packed >> (24 * i)) as u32 & 0xff_ffff;
        let lanes = [lane(0), lane(1), lane(2), lane(3), lane(4), 0, 0, 0];
        (lanes, (packed >> 120) as usize)
    }

    fn unpack_overflow(packed: PackedIds) -> (u32, u16) {
        (packed as u32, (packed >> 32) as u16)
    }
}
