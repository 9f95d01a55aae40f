// The element-wise arithmetic of updates: one pass over memory each, whatever formats weights and
// state have. Compiled per instruction set; the functions here choose.
#pragma once

#include <array>
#include <cstdint>

#include "optim/stored_values.h"

namespace thimble {

/// A gradient, or anything else an update is made from; read only. scale multiplies it first.
struct UpdateSource {
  StoredValues values;
  float scale = 1;
};
UpdateSource gradient_source(const UpdateArgs& args);
UpdateSource tensor_source(const Tensor& tensor, double scale = 1);

/// Weights are multiplied by `factor` (1 - lr * weight_decay) before or after the update.
struct WeightDecay {
  float factor = 1;
  bool after = false;
};

/// What every step on weights takes: the weights, what moves them, and their decay.
struct WeightUpdate {
  std::int64_t n = 0;   // elements
  UpdateSource source;  // the gradient, or a direction made from it
  StoredValues weight;
  WeightDecay decay;
};
/// Of args.grad and args.weight.
WeightUpdate weight_update(const UpdateArgs& args, const WeightDecay& decay);
/// Of args.weight and another source of as many elements.
WeightUpdate weight_update(const UpdateArgs& args, const WeightDecay& decay,
                           const UpdateSource& source);

struct AdamMath {
  float beta1 = 0, beta2 = 0;
  float step_size = 0;        // lr / c1, or lr * sqrt(c2) / c1
  float inverse_sqrt_c2 = 1;  // 1 for the Hugging Face convention
  float eps = 0;
};
struct AdamState {
  StoredValues exp_avg, exp_avg_sq;
};
/// With g the source of the update: m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// w -= step_size * m / (sqrt(v) * inverse_sqrt_c2 + eps).
void adam_step(const WeightUpdate& update, const AdamState& state, const AdamMath& math);
/// The same m and v; out[i] = step_size * m / (...), weights untouched.
void adam_direction(std::int64_t n, const UpdateSource& g, const AdamState& state,
                    const AdamMath& math, float* out);

struct MomentumMath {
  float momentum = 0;  // m = momentum * m + gain * g
  float gain = 1;
  bool nesterov = false;  // the update is momentum * m + gain * g, otherwise m
  float lr = 0;
};
/// SGD; without momentum state (kind kNone) the update is g.
void momentum_step(const WeightUpdate& update, const StoredValues& state, const MomentumMath& math);
/// The same m; the update goes to `out` (bf16 or f32), weights untouched.
void momentum_direction(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                        const MomentumMath& math, const Tensor& out);

/// m alone.
void accumulate_momentum(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                         const MomentumMath& math);

struct LionMath {
  float beta1 = 0, beta2 = 0;
  float lr = 0;
};
/// w -= lr * sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g. Ref: Chen et al. 2023,
/// algorithm 2.
void lion_step(const WeightUpdate& update, const StoredValues& state, const LionMath& math);

/// w -= lr * row[r] * column[c] * d for a matrix d of `width` columns, the source of the update; a
/// null factor is 1. With sign: of the sign of d.
struct Scaling {
  float lr = 0;
  const float* rows = nullptr;
  const float* columns = nullptr;
  bool sign = false;
};
void scaled_step(const WeightUpdate& update, std::int64_t width, const Scaling& scaling);

/// out[r] = sum of the squares of row r, in f64; of row[c] * columns[c] if columns are given.
void row_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, double* out,
                 const float* columns = nullptr);
/// out[c] += sum of the squares of column c, each summed in f64 and rounded once. Not of 8 bits.
void column_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, float* out);

/// `to` becomes x, rounded as its format rounds.
void store_values(std::int64_t n, const UpdateSource& x, const StoredValues& to);

/// Independent N(0, 1) * scale; element i is a function of (random, i) alone. bf16 or f32.
/// Box-Muller on the words of Philox block i / 4.
void fill_normal(const Tensor& out, const CounterRandom& random, double scale);

/// x <- x * factor, bf16 or f32.
void scale_values(const Tensor& x, float factor);

/// p <- c[0] I + c[1] A + c[2] A2 for square matrices; A and A2 f32, p bf16 or f32.
void newton_schulz_polynomial(const Tensor& p, const Tensor& a, const Tensor& a2,
                              const std::array<float, 3>& c);

struct CodeTables {
  const float* values;
  const float* bounds;  // 256, the last infinite
  bool is_signed;
  std::int32_t zero;  // the code of 0
  /// By cell of a value in [-1, 1] (its sign, exponent and 7 bits): the least code of any value in
  /// the cell; the greatest is at most kCodesPerCell more.
  const std::int32_t* first;
};
inline constexpr std::int32_t kCodesPerCell = 2;
/// Cells of one sign; magnitudes below 2^-23 are in the first.
inline constexpr std::int32_t kCodeCells = 23 * 128 + 1;
inline constexpr std::int32_t kFirstCell = (127 - 23) * 128;  // upper 16 bits of 2^-23
const CodeTables& code_tables(bool is_signed);

}  // namespace thimble
