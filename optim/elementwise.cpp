#include "optim/elementwise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>

#include "core/base/numeric.h"
#include "core/ops/kernel_table.h"
#include "core/ops/op_observer.h"
#include "optim/elementwise_table.h"

namespace thimble {
namespace {

const ElementwiseTable* gpu_table = nullptr;

const ElementwiseTable& table(DeviceKind device) {
  if (device == DeviceKind::kGpu) {
    TH_CHECK(gpu_table != nullptr, "no updates for GPUs are registered");
    return *gpu_table;
  }
  return std::string_view(cpu_isa()) == "avx2" ? avx2::kElementwise : avx512::kElementwise;
}

struct CodeStorage {
  std::array<float, 256> bounds{};
  std::array<std::int32_t, std::size_t{2} * kCodeCells> first{};
  CodeTables tables{};

  explicit CodeStorage(bool is_signed) {
    const auto& between = code_bounds(is_signed);
    std::copy(between.begin(), between.end(), bounds.begin());
    bounds.back() = std::numeric_limits<float>::infinity();
    for (std::int32_t cell = 0; cell < kCodeCells; ++cell) {
      const auto edge = [](std::int32_t c) {
        return std::bit_cast<float>(static_cast<std::uint32_t>(kFirstCell + c) << 16);
      };
      const float low = cell == 0 ? 0.0f : edge(cell), high = edge(cell + 1);
      const auto below = [&](auto&& is_below) {
        return static_cast<std::int32_t>(std::count_if(between.begin(), between.end(), is_below));
      };
      const auto at = static_cast<std::size_t>(cell);
      first[at] = below([low](float b) { return b < low; });
      first[at + kCodeCells] = below([high](float b) { return b <= -high; });
      const std::int32_t last = below([high](float b) { return b < high; }),
                         last_negative = below([low](float b) { return b < -low; });
      TH_CHECK(last - first[at] <= kCodesPerCell &&
               last_negative - first[at + kCodeCells] <= kCodesPerCell);
    }
    tables = {code_values(is_signed).data(), bounds.data(), is_signed, is_signed ? 127 : 0,
              first.data()};
  }
};

}  // namespace

void register_gpu_updates(const ElementwiseTable& table) {
  gpu_table = &table;
}

const CodeTables& code_tables(bool is_signed) {
  static const CodeStorage kSigned(true), kUnsigned(false);
  return is_signed ? kSigned.tables : kUnsigned.tables;
}

UpdateSource tensor_source(const Tensor& tensor, double scale) {
  return {.values = {.kind = tensor.dtype() == DType::kBF16 ? StoredValues::Kind::kBF16Random
                                                            : StoredValues::Kind::kF32,
                     .data = tensor.raw(),
                     .device = tensor.device().kind},
          .scale = static_cast<float>(scale)};
}

UpdateSource gradient_source(const UpdateArgs& args) {
  return tensor_source(args.grad, args.grad_scale);
}

WeightUpdate weight_update(const UpdateArgs& args, const WeightDecay& decay,
                           const UpdateSource& source) {
  return {
      .n = args.weight.numel(), .source = source, .weight = weight_values(args), .decay = decay};
}

WeightUpdate weight_update(const UpdateArgs& args, const WeightDecay& decay) {
  return weight_update(args, decay, gradient_source(args));
}

void adam_step(const WeightUpdate& update, const AdamState& state, const AdamMath& math) {
  const OpTimer timer("adam");
  table(update.source.values.device).adam_step(update, state, math);
}

void adam_direction(std::int64_t n, const UpdateSource& g, const AdamState& state,
                    const AdamMath& math, float* out) {
  const OpTimer timer("adam direction");
  table(g.values.device).adam_direction(n, g, state, math, out);
}

void momentum_step(const WeightUpdate& update, const StoredValues& state,
                   const MomentumMath& math) {
  const OpTimer timer("momentum");
  table(update.source.values.device).momentum_step(update, state, math);
}

void momentum_direction(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                        const MomentumMath& math, const Tensor& out) {
  const OpTimer timer("momentum direction");
  table(g.values.device).momentum_direction(n, g, state, math, out);
}

void accumulate_momentum(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                         const MomentumMath& math) {
  const OpTimer timer("accumulate momentum");
  table(g.values.device).accumulate_momentum(n, g, state, math);
}

void lion_step(const WeightUpdate& update, const StoredValues& state, const LionMath& math) {
  const OpTimer timer("lion");
  table(update.source.values.device).lion_step(update, state, math);
}

void scaled_step(const WeightUpdate& update, std::int64_t width, const Scaling& scaling) {
  const OpTimer timer("scaled step");
  table(update.source.values.device).scaled_step(update, width, scaling);
}

void row_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, double* out,
                 const float* columns) {
  const OpTimer timer("row squares");
  table(x.values.device).row_squares(rows, width, x, out, columns);
}

void column_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, float* out) {
  const OpTimer timer("column squares");
  table(x.values.device).column_squares(rows, width, x, out);
}

void store_values(std::int64_t n, const UpdateSource& x, const StoredValues& to) {
  const OpTimer timer("store values");
  table(x.values.device).store_values(n, x, to);
}

void fill_normal(const Tensor& out, const CounterRandom& random, double scale) {
  const OpTimer timer("fill normal");
  table(out.device().kind).fill_normal(out, random, scale);
}

void scale_values(const Tensor& x, float factor) {
  const OpTimer timer("scale values");
  table(x.device().kind).scale_values(x, factor);
}

void newton_schulz_polynomial(const Tensor& p, const Tensor& a, const Tensor& a2,
                              const std::array<float, 3>& c) {
  const OpTimer timer("polynomial");
  table(p.device().kind).newton_schulz_polynomial(p, a, a2, c);
}

}  // namespace thimble
