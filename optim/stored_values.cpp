#include "optim/stored_values.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "optim/elementwise.h"

namespace thimble {
namespace {

std::array<float, 256> make_values(bool is_signed) {
  std::vector<double> all{0.0, 1.0};
  for (int decade = 0; decade < 7; ++decade) {
    const int parts = is_signed ? 1 << decade : 2 << decade;
    for (int p = 0; p < parts; ++p) {
      const double middle = 0.1 + 0.9 * (p + 0.5) / parts;
      const double value = middle * std::pow(10.0, decade - 6);
      all.push_back(value);
      if (is_signed) all.push_back(-value);
    }
  }
  std::sort(all.begin(), all.end());
  std::array<float, 256> values{};
  std::transform(all.begin(), all.end(), values.begin(),
                 [](double v) { return static_cast<float>(v); });
  return values;
}

std::array<float, 255> make_bounds(const std::array<float, 256>& values) {
  std::array<float, 255> bounds{};
  for (std::size_t i = 0; i < bounds.size(); ++i) bounds[i] = (values[i] + values[i + 1]) * 0.5f;
  return bounds;
}

bool as_8bit(const StateSlot& slot, StateFormat format) {
  return format == StateFormat::k8Bit && slot.whole.numel() >= kLeast8Bit;
}

CounterRandom rounding(const UpdateArgs& args, std::uint64_t which) {
  return {args.seed, RandomPurpose::kRounding, mix64(hash_name(args.info.name), which),
          static_cast<std::uint64_t>(args.step)};
}

void set_random(StoredValues& values, const CounterRandom& random, std::int64_t first) {
  values.first = static_cast<std::uint64_t>(first);
  values.key = random.key();
  values.index = random.index();
}

}  // namespace

const std::array<float, 256>& code_values(bool is_signed) {
  static const std::array<float, 256> kSigned = make_values(true), kUnsigned = make_values(false);
  return is_signed ? kSigned : kUnsigned;
}

const std::array<float, 255>& code_bounds(bool is_signed) {
  static const std::array<float, 255> kSigned = make_bounds(code_values(true)),
                                      kUnsigned = make_bounds(code_values(false));
  return is_signed ? kSigned : kUnsigned;
}

StoredValues weight_values(const UpdateArgs& args) {
  StoredValues values{.data = args.weight.raw()};
  if (args.weight.dtype() == DType::kF32) {
    values.kind = StoredValues::Kind::kF32;
  } else if (args.weight.dtype() == DType::kU8) {
    values.kind = StoredValues::Kind::kInt8;
    values.extra = args.master.raw();
    set_random(values, rounding(args, 0), args.slice.begin * args.info.storage_shape()[1]);
  } else if (!args.master.defined()) {
    values.kind = StoredValues::Kind::kBF16Random;
    const std::int64_t width =
        args.info.shape.numel() / std::max<std::int64_t>(1, args.info.storage_shape()[0]);
    set_random(values, rounding(args, 0), args.slice.begin * width);
  } else if (args.master.dtype() == DType::kF32) {
    values = {
        .kind = StoredValues::Kind::kMaster, .data = args.master.raw(), .extra = args.weight.raw()};
  } else {
    values.kind = StoredValues::Kind::kSplit;
    values.extra = args.master.raw();
  }
  return values;
}

std::vector<StateSlot> state_slots_of(const StateSlot& f32_slot, StateFormat format) {
  StateSlot slot = f32_slot;
  if (format == StateFormat::kBF16) slot.dtype = DType::kBF16;
  if (!as_8bit(f32_slot, format)) return {slot};
  slot.dtype = DType::kU8;
  StateSlot largest = group_slot(slot.name + "_absmax", slot, kBlock8Bit);
  return {std::move(slot), std::move(largest)};
}

std::size_t num_slots_of(const StateSlot& f32_slot, StateFormat format) {
  return as_8bit(f32_slot, format) ? 2 : 1;
}

StoredValues state_values(const UpdateArgs& args, const StateSlot& f32_slot,
                          std::span<const Tensor> tensors, const StateArray& array) {
  StoredValues values{.kind = StoredValues::Kind::kF32, .data = tensors[0].raw()};
  if (array.format == StateFormat::kBF16) {
    values.kind = StoredValues::Kind::kBF16Random;
    set_random(values, rounding(args, array.which), f32_slot.elements(args.slice).begin);
  } else if (as_8bit(f32_slot, array.format)) {
    values.kind = array.is_signed ? StoredValues::Kind::kSigned8 : StoredValues::Kind::kUnsigned8;
    values.extra = tensors[1].raw();
  }
  return values;
}

std::int64_t block_rows(std::int64_t width) {
  return kBlock8Bit / std::gcd(kBlock8Bit, std::max<std::int64_t>(1, width));
}

void split_weight(const Tensor& weight, const Tensor& remainder, const Tensor& master) {
  if (weight.device().planning) return;
  store_values(
      weight.numel(), tensor_source(master),
      {.kind = StoredValues::Kind::kSplit, .data = weight.raw(), .extra = remainder.raw()});
}

}  // namespace thimble
