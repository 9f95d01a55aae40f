// How weights and optimizer state lie in memory. The arithmetic of an update is f32; a run of
// values is opened as f32 (in place where it is f32), and closed again in its format. The formats
// are those of weights (f32; a f32 master beside a bf16 weight; a bf16 weight and its remainder; a
// bf16 weight rounded stochastically) and of state (f32; bf16 rounded stochastically; 8 bits).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/nn/optimizer.h"

namespace thimble {

enum class StateFormat : std::uint8_t {
  kF32,
  kBF16,  // rounded stochastically: a decay of 0.999 would be lost otherwise
  k8Bit,  // block-wise dynamic codes, below
};

/// Elements of one 8-bit block; slices begin and end at multiples of it, counted from element 0.
inline constexpr std::int64_t kBlock8Bit = 256;
/// Smaller parameters keep f32 state instead of 8 bits.
inline constexpr std::int64_t kLeast8Bit = 4096;

/// The 256 values of a code, ascending. Ref: Dettmers et al. 2022, "8-bit optimizers via block-wise
/// quantization", section 2 (dynamic tree quantization): for each decade 10^(i-6), i = 0 .. 6, the
/// midpoints of 2^i (signed; both signs) or 2^(i+1) (unsigned) equal parts of [0.1, 1], and 0
/// and 1.
const std::array<float, 256>& code_values(bool is_signed);
/// The 255 bounds between neighbouring values.
const std::array<float, 255>& code_bounds(bool is_signed);

/// One array of values in memory, in any of the formats.
struct StoredValues {
  enum class Kind : std::uint8_t {
    kNone,
    kF32,         // data: f32
    kMaster,      // data: f32; extra: bf16, written when closed
    kSplit,       // data: bf16; extra: u16
    kBF16Random,  // data: bf16
    kInt8,        // data: 8-bit weights; extra: f32 scales of kInt8Group, rounded stochastically
    kSigned8,     // data: u8 codes; extra: f32 largest magnitude of each block
    kUnsigned8,
  };
  Kind kind = Kind::kNone;
  void* data = nullptr;
  void* extra = nullptr;
  std::uint64_t first = 0;  // number of the first element within the parameter: seeds its rounding
  std::uint64_t key = 0, index = 0;      // of a CounterRandom
  DeviceKind device = DeviceKind::kCpu;  // of an UpdateSource: where its update runs
};

/// The weight of an update, in whatever format it has.
StoredValues weight_values(const UpdateArgs& args);

/// The slots that keep the values of an f32 slot in a format: `name`, and for 8 bits `name`_absmax.
/// An array of less than kLeast8Bit values stays f32 instead of 8 bits.
std::vector<StateSlot> state_slots_of(const StateSlot& f32_slot, StateFormat format);
/// Number of slots that state_slots_of() makes.
std::size_t num_slots_of(const StateSlot& f32_slot, StateFormat format);
/// How one array of state is stored.
struct StateArray {
  StateFormat format = StateFormat::kF32;
  bool is_signed = true;    // of 8-bit codes
  std::uint64_t which = 1;  // tells the arrays of one parameter apart in their stochastic rounding
};
/// The state in `tensors`, made by state_slots_of().
StoredValues state_values(const UpdateArgs& args, const StateSlot& f32_slot,
                          std::span<const Tensor> tensors, const StateArray& array);

/// Rows to which slices must be aligned so that 8-bit blocks of `width` values per row stay whole.
std::int64_t block_rows(std::int64_t width);

/// Splits f32 `master` into a bf16 weight and the remainder that it lacks.
void split_weight(const Tensor& weight, const Tensor& remainder, const Tensor& master);

}  // namespace thimble
