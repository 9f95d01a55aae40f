// What GaLore and its kin do within their subspace, and outside of it.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/threads.h"
#include "core/ops/ops.h"
#include "optim/galore.h"

namespace thimble {
namespace {

constexpr double kTiny = 1e-8;

// What Fira keeps from the round that measures to the one that applies.
struct FiraCarry {
  float *direction, *projected, *scales;
  FiraCarry(const Tensor& carry, const LowRankShape& s)
      : direction(static_cast<float*>(carry.raw())),
        projected(direction + s.rows * s.rank),
        scales(projected + s.rows * s.rank) {}
};

// One of the `h` gradients that a history holds.
class Remembered {
 public:
  Remembered(const Tensor& history, std::int64_t h, std::int64_t rank, std::int64_t k)
      : history_(history), stride_(h * rank), begin_(k * rank) {}
  float at(std::int64_t row, std::int64_t c) const {
    const std::int64_t i = row * stride_ + begin_ + c;
    return history_.dtype() == DType::kBF16 ? to_float(history_.data<BF16>()[i])
                                            : history_.data<float>()[i];
  }
  // Returns what is kept of the value.
  float put(std::int64_t row, std::int64_t c, float value) const {
    const std::int64_t i = row * stride_ + begin_ + c;
    if (history_.dtype() == DType::kBF16) {
      history_.data<BF16>()[i] = to_bf16(value);
    } else {
      history_.data<float>()[i] = value;
    }
    return at(row, c);
  }

 private:
  const Tensor& history_;
  std::int64_t stride_, begin_;
};

}  // namespace

// In the first round error <- error + gradient; all rounds take that for the gradient.
void Galore::add_error(UpdateArgs& args, bool first) const {
  const Tensor error = state(args).error;
  if (first) mix(error, args.grad, 1, args.grad_scale);
  args.grad = error;
  args.grad_scale = 1;
}

// error -= R P^T: what the update leaves out.
void Galore::keep_error(const UpdateArgs& args, const Tensor& r) const {
  const Tensor negative = workspace(args, r.shape(), "negative projected gradient");
  if (args.slice.rows() == 0) return;
  mix(negative, r, 0, -1);
  ops::matmul(*args.arena, {negative}, {basis(args, DType::kF32), true}, state(args).error,
              {.accumulate = true});
}

// R = G P, f32; or the projection that was accumulated in G's stead.
Tensor Galore::projected(const UpdateArgs& args) const {
  const LowRankShape shape = shape_of(args);
  if (args.grad.shape()[1] == shape.width)
    return project(args, shape, basis(args, args.grad.dtype()));
  const Tensor r = workspace(args, args.grad.shape(), "projected gradient");
  ops::cast(r, args.grad);
  return r;
}

Galore::History Galore::history(const UpdateArgs& args) const {
  const State kept = state(args);
  float* gram = kept.gram.data<float>();
  return {kept.history, gram, gram + options_.history * options_.history};
}

// Puts R into the history, which begins anew with the basis, and asks for its products with all
// that is there.
void Galore::remember(const UpdateArgs& args, RoundSums& out) const {
  const LowRankShape shape = shape_of(args);
  const Tensor r = projected(args);
  if (r.device().planning) return;
  const History past = history(args);
  if (refreshes(args.info, args.step)) past.numbers[History::kCount] = 0;
  if (shape.rows == 0) return;
  const std::int64_t h = options_.history, count = past.count_with_next(h);
  const Remembered own(past.gradients, h, shape.rank, past.place(0, h));
  auto* kept = static_cast<float*>(args.carry.raw());
  const auto scale = static_cast<float>(args.grad_scale);
  parallel_for_each(shape.rows, shape.rank, [&](std::int64_t j) {
    for (std::int64_t c = 0; c < shape.rank; ++c) {
      const std::int64_t i = j * shape.rank + c;
      kept[i] = own.put(j, c, r.data<float>()[i] * scale);
    }
  });
  std::vector<double> products(static_cast<std::size_t>(shape.rows));
  for (std::int64_t k = 0; k < count; ++k) {
    const Remembered other(past.gradients, h, shape.rank, past.place(k, h));
    parallel_for_each(shape.rows, shape.rank, [&](std::int64_t j) {
      double sum = 0;
      for (std::int64_t c = 0; c < shape.rank; ++c) {
        sum += static_cast<double>(kept[j * shape.rank + c]) * static_cast<double>(other.at(j, c));
      }
      products[static_cast<std::size_t>(j)] = sum;
    });
    for (const double p : products) out.exact[static_cast<std::size_t>(k)].add(p);
  }
}

// g / damping - H (I + H^T H / damping)^-1 H^T g / damping^2 for the history H, by Woodbury's
// identity the inverse of F = damping I + H H^T times g. Ref: "Natural GaLore", equation 8.
void Galore::precondition(const UpdateArgs& args, const RoundSums& in, RoundSums& out) const {
  const LowRankShape shape = shape_of(args);
  const Tensor g = workspace(args, Shape{shape.rows, shape.rank}, "natural gradient");
  if (!g.device().planning) {
    const History past = history(args);
    const std::int64_t h = options_.history, count = past.count_with_next(h);
    const double inverse = 1 / options_.damping;
    std::vector<double> system(static_cast<std::size_t>(count * count)), solution;
    for (std::int64_t k = 0; k < count; ++k) {
      solution.push_back(in.exact[static_cast<std::size_t>(k)].value());
      past.product(past.place(0, h), past.place(k, h), h) = static_cast<float>(solution.back());
      past.product(past.place(k, h), past.place(0, h), h) = static_cast<float>(solution.back());
    }
    for (std::int64_t a = 0; a < count; ++a) {
      for (std::int64_t b = 0; b < count; ++b) {
        const auto product =
            static_cast<double>(past.product(past.place(a, h), past.place(b, h), h));
        system[static_cast<std::size_t>(a * count + b)] = (a == b ? 1.0 : 0.0) + inverse * product;
      }
    }
    const bool solved = solve_positive(count, system.data(), solution.data());
    const auto* own = static_cast<const float*>(args.carry.raw());
    parallel_for_each(shape.rows, shape.rank, [&](std::int64_t j) {
      for (std::int64_t c = 0; c < shape.rank; ++c) {
        double sum = 0;
        for (std::int64_t k = 0; solved && k < count; ++k) {
          sum += solution[static_cast<std::size_t>(k)] *
                 static_cast<double>(
                     Remembered(past.gradients, h, shape.rank, past.place(k, h)).at(j, c));
        }
        const std::int64_t i = j * shape.rank + c;
        g.data<float>()[i] =
            static_cast<float>(inverse * (static_cast<double>(own[i]) - inverse * sum));
      }
    });
    past.numbers[History::kCount] = static_cast<float>(count);
    past.numbers[History::kNext] = static_cast<float>((past.place(0, h) + 1) % h);
  }
  update(args, g, 1, out);
}

void Galore::update(const UpdateArgs& args, const Tensor& r, double grad_scale,
                    RoundSums& out) const {
  const LowRankShape shape = shape_of(args);
  const Tensor direction = workspace(args, r.shape(), "direction");
  if (!r.device().planning && shape.rows > 0) {
    AdamMath math = adam_math(options_.adam, args.step, 1.0);
    adam_direction(shape.rows * shape.rank, tensor_source(r, grad_scale),
                   moment_state(args, row_moments(args.info, shape.rank), options_.adam.state),
                   math, direction.data<float>());
  }
  if (options_.fira) {
    measure_outside(args, r, direction, out);
  } else {
    step_along(args, direction, weight_decay(options_.adam, args.info, args.lr));
  }
}

// w -= lr scale D P^T.
void Galore::step_along(const UpdateArgs& args, const Tensor& direction,
                        const WeightDecay& decay) const {
  const LowRankShape shape = shape_of(args);
  const DType dtype = args.grad.dtype();
  const Tensor p = basis(args, dtype);
  const Tensor low = workspace(args, direction.shape(), "direction", dtype);
  ops::cast(low, direction);
  const Tensor full = workspace(args, Shape{shape.rows, shape.width}, "update", dtype);
  if (shape.rows == 0) return;
  ops::matmul(*args.arena, {low}, {p, true}, full);
  if (full.device().planning) return;
  scaled_step(shape.rows, shape.width, tensor_source(full), weight_values(args),
              {.lr = static_cast<float>(args.lr * options_.scale)}, decay);
}

void Galore::measure_outside(const UpdateArgs& args, const Tensor& r, const Tensor& direction,
                             RoundSums& out) const {
  const LowRankShape shape = shape_of(args);
  const Tensor norms = workspace(args, Shape{3 * shape.rows * 2}, "squares of rows");
  if (r.device().planning || shape.rows == 0) return;
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
}

// scale P N + c (g - scale P P^T g) = scale P (N - c P^T g) + c g.
void Galore::add_outside(const UpdateArgs& args, const RoundSums& in) const {
  const LowRankShape shape = shape_of(args);
  const Tensor direction = workspace(args, Shape{shape.rows, shape.rank}, "direction");
  WeightDecay decay = weight_decay(options_.adam, args.info, args.lr), none;
  if (decay.after) std::swap(decay, none);
  if (direction.device().planning) return step_along(args, direction, decay);
  double norm = std::sqrt(in.exact[0].value());
  if (!std::isfinite(norm)) return;
  float& last_norm = *state(args).norm.data<float>();
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
  std::memcpy(direction.raw(), carry.direction, static_cast<std::size_t>(direction.nbytes()));
  step_along(args, direction, decay);
  scaled_step(shape.rows, shape.width, gradient_source(args), weight_values(args),
              {.lr = static_cast<float>(args.lr), .rows = carry.scales}, none);
}

}  // namespace thimble
