#include "optim/galore.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr int kFirstIterations = 3;  // of the power iteration that starts from random columns
constexpr double kTiny = 1e-8;

Tensor workspace(const UpdateArgs& args, const Shape& shape, const char* what,
                 DType dtype = DType::kF32) {
  return Tensor::empty(*args.arena, MemoryTag::kWorkspace, dtype, shape, what);
}

template <typename T>
void mix_typed(const Tensor& to, const Tensor& other, double own, double share) {
  T* x = to.data<T>();
  const T* y = other.data<T>();
  const auto a = static_cast<float>(own), b = static_cast<float>(share);
  const std::int64_t n = to.numel();
#pragma omp parallel for if (n > 65536)
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = a * to_float(x[i]) + b * to_float(y[i]);
    if constexpr (std::is_same_v<T, float>) {
      x[i] = v;
    } else {
      x[i] = to_bf16(v);
    }
  }
}

// to <- own to + share other, of one dtype.
void mix(const Tensor& to, const Tensor& other, double own, double share) {
  to.dtype() == DType::kBF16 ? mix_typed<BF16>(to, other, own, share)
                             : mix_typed<float>(to, other, own, share);
}

// What Fira keeps from the round that measures to the one that applies.
struct FiraCarry {
  float *direction, *projected, *scales;
  FiraCarry(const Tensor& carry, const LowRankShape& s)
      : direction(static_cast<float*>(carry.raw())),
        projected(direction + s.rows * s.rank),
        scales(projected + s.rows * s.rank) {}
};

}  // namespace

OptimizerNeed Galore::needs(const ParamInfo& info) const {
  OptimizerNeed need{.kind = OptimizerNeed::Kind::kLongSlice};
  if (options_.adam.state == StateFormat::k8Bit)
    need.granule_rows = block_rows(low_rank_shape(info, {}, options_.rank).rank);
  return need;
}

std::vector<StateSlot> Galore::state_slots(const ParamInfo& info, Slice slice) const {
  const LowRankShape shape = low_rank_shape(info, slice, options_.rank);
  std::vector<StateSlot> slots =
      moment_slots(row_moments(info, slice, shape.rank), options_.adam.state);
  slots.push_back(shared_slot("projector", options_.projector, Shape{shape.width, shape.rank}));
  if (options_.fira) slots.push_back(shared_slot("update_norm", DType::kF32, Shape{1}));
  return slots;
}

std::size_t Galore::projector_slot(const UpdateArgs& args) const {
  const std::int64_t r = low_rank_shape(args.info, args.slice, options_.rank).rank;
  return num_moment_slots(row_moments(args.info, args.slice, r), options_.adam.state);
}

bool Galore::refreshes(const ParamInfo& info, std::int64_t step) const {
  if (step == 1) return true;
  const auto gap = static_cast<std::uint64_t>(options_.update_gap);
  const std::uint64_t offset = options_.stagger ? hash_name(info.name) % gap : 0;
  return (static_cast<std::uint64_t>(step - 1) + offset) % gap == 0;
}

int Galore::refresh_rounds(const ParamInfo& info, std::int64_t step) const {
  if (!refreshes(info, step)) return 0;
  return step == 1 && !options_.exact ? kFirstIterations : 1;
}

int Galore::rounds(const ParamInfo& info, std::int64_t step) const {
  return refresh_rounds(info, step) + (options_.fira ? 2 : 1);
}

SumCount Galore::sums(const ParamInfo& info, std::int64_t step, int round) const {
  const LowRankShape shape = low_rank_shape(info, {}, options_.rank);
  if (round >= refresh_rounds(info, step)) return {.exact = 1};  // Fira's norm
  return {.values = shape.width * (options_.exact ? shape.width : shape.rank)};
}

std::int64_t Galore::carry_bytes(const ParamInfo& info, Slice slice, std::int64_t) const {
  if (!options_.fira) return 0;
  const LowRankShape shape = low_rank_shape(info, slice, options_.rank);
  return 4 * shape.rows * (2 * shape.rank + 1);
}

void Galore::round(int i, const UpdateArgs& args, const RoundSums& in, RoundSums& out) const {
  const LowRankShape shape = low_rank_shape(args.info, args.slice, options_.rank);
  const int refresh = refresh_rounds(args.info, args.step);
  if (i > 0 && i <= refresh) adopt(args, shape, in);
  if (i < refresh) return iterate(i, args, shape, out);
  if (i == refresh) return update(args, shape, out);
  add_outside(args, shape, in);
}

// What the subspace is found for: the gradient, or its mean with the momentum. Ref: Robert et al.
// 2024, "LDAdam", algorithm 1.
Tensor Galore::subject(const UpdateArgs& args, const LowRankShape& shape) const {
  if (options_.momentum_share == 0 || options_.adam.state != StateFormat::kF32) return args.grad;
  const Tensor p = projector(args);
  const Tensor basis = workspace(args, p.shape(), "basis", args.grad.dtype());
  const Tensor low = workspace(args, Shape{shape.rows, shape.rank}, "momentum", args.grad.dtype());
  const Tensor mixed =
      workspace(args, args.grad.shape(), "gradient and momentum", args.grad.dtype());
  if (shape.rows == 0) return mixed;
  ops::cast(basis, p);
  ops::cast(low, args.state[0]);
  ops::matmul(*args.arena, {low}, {basis, true}, mixed);
  if (mixed.device().planning) return mixed;
  const double rho = args.step == 1 ? 0.0 : options_.momentum_share;
  const double c1 = 1 - std::pow(options_.adam.beta1, static_cast<double>(args.step - 1));
  mix(mixed, args.grad, args.step == 1 ? 0.0 : rho / c1, (1 - rho) * args.grad_scale);
  return mixed;
}

// This slice's part of G^T (G P), of the next basis; or of G^T G.
void Galore::iterate(int iteration, const UpdateArgs& args, const LowRankShape& shape,
                     RoundSums& out) const {
  const bool planning = args.weight.device().planning;
  const Tensor p = projector(args);
  if (args.step == 1 && iteration == 0 && !options_.exact) {
    // The loop begins with any basis; a random one misses no direction.
    const Tensor random = random_projection(args, shape, 0, DType::kF32);
    if (!planning) orthonormalise(random.data<float>(), shape.width, shape.rank);
    ops::cast(p, random);
  }
  const Tensor of = subject(args, shape);
  const std::int64_t columns = options_.exact ? shape.width : shape.rank;
  const Tensor sum = workspace(args, Shape{shape.width, columns}, "subspace");
  if (shape.rows > 0) {
    if (options_.exact) {
      ops::matmul(*args.arena, {of, true}, {of}, sum);
    } else {
      const Tensor basis = workspace(args, p.shape(), "basis", args.grad.dtype());
      ops::cast(basis, p);
      const Tensor r =
          workspace(args, Shape{shape.rows, shape.rank}, "projected gradient", args.grad.dtype());
      ops::matmul(*args.arena, {of}, {basis}, r);
      ops::matmul(*args.arena, {of, true}, {r}, sum);
    }
  } else if (!planning) {
    ops::zero(sum);
  }
  if (!planning) std::memcpy(out.values.data(), sum.raw(), static_cast<std::size_t>(sum.nbytes()));
}

// The next basis from the sums of all slices; the same on each. Of a gradient that is zero or not
// finite nothing can be learnt: the basis stays.
void Galore::adopt(const UpdateArgs& args, const LowRankShape& shape, const RoundSums& in) const {
  const Tensor p = projector(args);
  const Tensor next = workspace(args, p.shape(), "next basis");
  const Tensor before = options_.rotate_moments
                            ? workspace(args, p.shape(), "previous basis", DType::kF32)
                            : Tensor();
  float* values = next.device().planning ? nullptr : next.data<float>();
  bool found = false;
  if (values == nullptr) {
  } else if (options_.exact) {
    found = largest_eigenvectors(in.values.data(), shape.width, shape.rank, values);
  } else {
    std::copy(in.values.begin(), in.values.end(), values);
    found = orthonormalise(values, shape.width, shape.rank);
  }
  if (before.defined()) ops::cast(before, p);
  if (found) ops::cast(p, next);
  if (before.defined()) rotate(args, shape, before);
}

// m <- m C, v <- c2 |(v / c2 - (m / c1)^2) (C o C) + (m C / c1)^2| with C = before^T now and the
// corrections of the last step's bias. Ref: Robert et al. 2024, "LDAdam", algorithm 1.
void Galore::rotate(const UpdateArgs& args, const LowRankShape& shape, const Tensor& before) const {
  if (options_.adam.state != StateFormat::kF32 || shape.rows == 0) return;
  const Tensor now = workspace(args, before.shape(), "basis");
  ops::cast(now, projector(args));
  const Shape square{shape.rank, shape.rank}, tall{shape.rows, shape.rank};
  const Tensor c = workspace(args, square, "rotation"), c2 = workspace(args, square, "rotation");
  const Tensor m = args.state[0], v = args.state[1];
  const Tensor turned = workspace(args, tall, "rotated"), spread = workspace(args, tall, "rotated");
  ops::matmul(*args.arena, {before, true}, {now}, c);
  ops::matmul(*args.arena, {m}, {c}, turned);
  const bool idle = c.device().planning || args.step == 1;
  const auto t = static_cast<double>(args.step - 1);
  const auto bias1 = static_cast<float>(1 - std::pow(options_.adam.beta1, t)),
             bias2 = static_cast<float>(1 - std::pow(options_.adam.beta2, t));
  if (!idle) {
    for (std::int64_t i = 0; i < c.numel(); ++i)
      c2.data<float>()[i] = c.data<float>()[i] * c.data<float>()[i];
#pragma omp parallel for
    for (std::int64_t i = 0; i < m.numel(); ++i) {
      const float mean = m.data<float>()[i] / bias1;
      v.data<float>()[i] = v.data<float>()[i] / bias2 - mean * mean;
    }
  }
  ops::matmul(*args.arena, {v}, {c2}, spread);
  if (idle) return;
#pragma omp parallel for
  for (std::int64_t i = 0; i < m.numel(); ++i) {
    const float moved = turned.data<float>()[i], mean = moved / bias1;
    m.data<float>()[i] = moved;
    v.data<float>()[i] = bias2 * std::abs(spread.data<float>()[i] + mean * mean);
  }
}

void Galore::update(const UpdateArgs& args, const LowRankShape& shape, RoundSums& out) const {
  const Tensor p = projector(args);
  const Tensor basis = workspace(args, p.shape(), "basis", args.grad.dtype());
  ops::cast(basis, p);
  const Tensor r = project(args, shape, basis);
  const Tensor direction = workspace(args, r.shape(), "direction");
  const Tensor norms = workspace(args, Shape{3 * shape.rows * 2}, "squares of rows");
  const bool planning = p.device().planning;
  if (!planning && shape.rows > 0) {
    AdamMath math = adam_math(options_.adam, args.step, 1.0);
    adam_direction(
        shape.rows * shape.rank, tensor_source(r, args.grad_scale),
        moment_state(args, row_moments(args.info, args.slice, shape.rank), options_.adam.state),
        math, direction.data<float>());
  }
  if (options_.fira) {
    if (planning || shape.rows == 0) return;
    const FiraCarry carry(args.carry, shape);
    auto* of_r = static_cast<double*>(norms.raw());
    double* of_direction = of_r + shape.rows;
    double* of_grad = of_direction + shape.rows;
    row_squares(shape.rows, shape.rank, tensor_source(r, args.grad_scale), of_r);
    row_squares(shape.rows, shape.rank, tensor_source(direction), of_direction);
    row_squares(shape.rows, shape.width, gradient_source(args), of_grad);
    std::memcpy(carry.direction, direction.raw(), static_cast<std::size_t>(direction.nbytes()));
    std::memcpy(carry.projected, r.raw(), static_cast<std::size_t>(r.nbytes()));
    const double inside = options_.scale * (2 - options_.scale);
    for (std::int64_t j = 0; j < shape.rows; ++j) {
      const double c = std::sqrt(of_direction[j]) / (std::sqrt(of_r[j]) + kTiny);
      carry.scales[j] = static_cast<float>(c);
      // |c (g - scale P P^T g)|^2, P being orthonormal.
      out.exact[0].add(c * c * std::max(0.0, of_grad[j] - inside * of_r[j]));
    }
    return;
  }
  const Tensor low = workspace(args, r.shape(), "direction", args.grad.dtype());
  ops::cast(low, direction);
  const Tensor full = workspace(args, args.grad.shape(), "update", args.grad.dtype());
  if (shape.rows == 0) return;
  ops::matmul(*args.arena, {low}, {basis, true}, full);
  if (planning) return;
  scaled_step(shape.rows, shape.width, tensor_source(full), weight_values(args),
              {.lr = static_cast<float>(args.lr * options_.scale)},
              weight_decay(options_.adam, args.info, args.lr));
}

// scale P N + c (g - scale P P^T g) = scale P (N - c P^T g) + c g.
void Galore::add_outside(const UpdateArgs& args, const LowRankShape& shape,
                         const RoundSums& in) const {
  const Tensor p = projector(args);
  const Tensor basis = workspace(args, p.shape(), "basis", args.grad.dtype());
  ops::cast(basis, p);
  const Tensor low = workspace(args, Shape{shape.rows, shape.rank}, "direction", args.grad.dtype());
  const Tensor full = workspace(args, args.grad.shape(), "update", args.grad.dtype());
  if (p.device().planning) {
    if (shape.rows > 0) ops::matmul(*args.arena, {low}, {basis, true}, full);
    return;
  }
  double norm = std::sqrt(in.exact[0].value());
  if (!std::isfinite(norm)) return;
  float& last_norm = *args.state.back().data<float>();
  double grown = 1;
  if (last_norm > 0) {
    grown = std::max(norm / (static_cast<double>(last_norm) + kTiny), options_.max_growth) /
            options_.max_growth;
  }
  last_norm = static_cast<float>(norm / grown);
  if (shape.rows == 0) return;
  const FiraCarry carry(args.carry, shape);
  const auto scale = static_cast<float>(args.grad_scale);
  for (std::int64_t j = 0; j < shape.rows; ++j) {
    carry.scales[j] /= static_cast<float>(grown);
    for (std::int64_t k = j * shape.rank; k < (j + 1) * shape.rank; ++k)
      carry.direction[k] -= carry.scales[j] * carry.projected[k] * scale;
  }
  const Tensor direction = workspace(args, low.shape(), "direction");
  std::memcpy(direction.raw(), carry.direction, static_cast<std::size_t>(direction.nbytes()));
  ops::cast(low, direction);
  ops::matmul(*args.arena, {low}, {basis, true}, full);
  const StoredValues weight = weight_values(args);
  WeightDecay decay = weight_decay(options_.adam, args.info, args.lr), none;
  if (decay.after) std::swap(decay, none);
  scaled_step(shape.rows, shape.width, tensor_source(full), weight,
              {.lr = static_cast<float>(args.lr * options_.scale)}, decay);
  scaled_step(shape.rows, shape.width, gradient_source(args), weight,
              {.lr = static_cast<float>(args.lr), .rows = carry.scales}, none);
}

}  // namespace thimble
