// The element-wise arithmetic of updates on a GPU: one pass over memory each, eight elements a
// thread. The arithmetic itself is that of the CPU (element_math.h).
#include "core/device/cuda/runtime.h"
#include "optim/cuda/stored_values.cuh"
#include "optim/elementwise_table.h"

namespace thimble::cuda {
namespace {

constexpr unsigned kThreads = 256;

unsigned blocks_for(std::int64_t n) {
  constexpr std::int64_t kPerBlock = std::int64_t{kThreads} * kEach;
  return static_cast<unsigned>((n + kPerBlock - 1) / kPerBlock);
}

// The tables of both codes, copied once to each device.
DeviceCodes device_codes(bool is_signed) {
  const CodeTables& host = code_tables(is_signed);
  DeviceCodes codes{.values = nullptr,
                    .bounds = nullptr,
                    .first = nullptr,
                    .negative_zero = is_signed ? host.zero : -1};
  codes.values = gpu::constant(std::span(host.values, 256));
  codes.bounds = gpu::constant(std::span(host.bounds, 256));
  codes.first = gpu::constant(std::span(host.first, std::size_t{2} * kCodeCells));
  return codes;
}

bool is_coded(const StoredValues& s) {
  return s.kind == StoredValues::Kind::kSigned8 || s.kind == StoredValues::Kind::kUnsigned8;
}
DeviceCodes codes_of(const StoredValues& s) {
  return is_coded(s) ? device_codes(s.kind == StoredValues::Kind::kSigned8) : DeviceCodes{};
}

struct Codes {
  DeviceCodes source, first, second;  // of the source, the first and the second moment
};
Codes codes_of(const UpdateSource& g, const StoredValues& first = {},
               const StoredValues& second = {}) {
  return {codes_of(g.values), codes_of(first), codes_of(second)};
}

TH_DEVICE void open_scaled(const UpdateSource& g, Elements at, const DeviceCodes& codes,
                           float* out) {
  open(g.values, at, codes, out);
  for (int i = 0; i < kEach; ++i) out[i] *= g.scale;
}

TH_KERNEL void adam_step_kernel(std::int64_t n, UpdateSource g, StoredValues weight,
                                AdamState state, AdamMath math, WeightDecay decay, Codes codes) {
  const float first = decay_before(decay), last = decay_after(decay);
  const Elements at = elements_of_thread(n);
  float x[kEach], w[kEach], m[kEach], v[kEach];
  open_scaled(g, at, codes.source, x);
  open(weight, at, {}, w);
  open(state.exp_avg, at, codes.first, m);
  open(state.exp_avg_sq, at, codes.second, v);
  for (int i = 0; i < kEach; ++i) {
    const AdamResult a = adam_update(x[i], m[i], v[i], math);
    m[i] = a.m;
    v[i] = a.v;
    w[i] = stepped(w[i], a.update, first, last);
  }
  close(weight, at, {}, w);
  close(state.exp_avg, at, codes.first, m);
  close(state.exp_avg_sq, at, codes.second, v);
}

void adam_step(const WeightUpdate& u, const AdamState& state, const AdamMath& math) {
  gpu::launch(adam_step_kernel, blocks_for(u.n), kThreads, gpu::compute_stream(), u.n, u.source,
              u.weight, state, math, u.decay, codes_of(u.source, state.exp_avg, state.exp_avg_sq));
}

TH_KERNEL void adam_direction_kernel(std::int64_t n, UpdateSource g, AdamState state, AdamMath math,
                                     float* out, Codes codes) {
  const Elements at = elements_of_thread(n);
  float x[kEach], m[kEach], v[kEach], update[kEach];
  open_scaled(g, at, codes.source, x);
  open(state.exp_avg, at, codes.first, m);
  open(state.exp_avg_sq, at, codes.second, v);
  for (int i = 0; i < kEach; ++i) {
    const AdamResult a = adam_update(x[i], m[i], v[i], math);
    m[i] = a.m;
    v[i] = a.v;
    update[i] = a.update;
  }
  store_elements<kEach>(out + at.begin, at.count, update);
  close(state.exp_avg, at, codes.first, m);
  close(state.exp_avg_sq, at, codes.second, v);
}

void adam_direction(std::int64_t n, const UpdateSource& g, const AdamState& state,
                    const AdamMath& math, float* out) {
  gpu::launch(adam_direction_kernel, blocks_for(n), kThreads, gpu::compute_stream(), n, g, state,
              math, out, codes_of(g, state.exp_avg, state.exp_avg_sq));
}

// The update replaces x; without a momentum it is x.
TH_DEVICE void move_momentum(const StoredValues& state, Elements at, const MomentumMath& math,
                             const DeviceCodes& codes, float* x) {
  if (state.kind == StoredValues::Kind::kNone) return;
  float m[kEach];
  open(state, at, codes, m);
  for (int i = 0; i < kEach; ++i) {
    const MomentumResult r = momentum_update(x[i], m[i], math);
    m[i] = r.m;
    x[i] = r.update;
  }
  close(state, at, codes, m);
}

TH_KERNEL void momentum_step_kernel(std::int64_t n, UpdateSource g, StoredValues weight,
                                    StoredValues state, MomentumMath math, WeightDecay decay,
                                    Codes codes) {
  const float first = decay_before(decay), last = decay_after(decay);
  const Elements at = elements_of_thread(n);
  float x[kEach], w[kEach];
  open_scaled(g, at, codes.source, x);
  move_momentum(state, at, math, codes.first, x);
  open(weight, at, {}, w);
  for (int i = 0; i < kEach; ++i) w[i] = stepped(w[i], math.lr * x[i], first, last);
  close(weight, at, {}, w);
}

void momentum_step(const WeightUpdate& u, const StoredValues& state, const MomentumMath& math) {
  gpu::launch(momentum_step_kernel, blocks_for(u.n), kThreads, gpu::compute_stream(), u.n, u.source,
              u.weight, state, math, u.decay, codes_of(u.source, state));
}

// out: bf16 if to_bf16_ is not null, else f32; both null: the momentum alone.
TH_KERNEL void momentum_direction_kernel(std::int64_t n, UpdateSource g, StoredValues state,
                                         MomentumMath math, float* to_f32, BF16* to_bf16,
                                         Codes codes) {
  const Elements at = elements_of_thread(n);
  float x[kEach];
  open_scaled(g, at, codes.source, x);
  move_momentum(state, at, math, codes.first, x);
  if (to_f32 != nullptr) store_floats<kEach>(to_f32 + at.begin, at.count, x);
  if (to_bf16 != nullptr) store_floats<kEach>(to_bf16 + at.begin, at.count, x);
}

void momentum_direction(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                        const MomentumMath& math, const Tensor& out) {
  const bool is_bf16 = out.dtype() == DType::kBF16;
  gpu::launch(momentum_direction_kernel, blocks_for(n), kThreads, gpu::compute_stream(), n, g,
              state, math, is_bf16 ? nullptr : static_cast<float*>(out.raw()),
              is_bf16 ? static_cast<BF16*>(out.raw()) : nullptr, codes_of(g, state));
}

void accumulate_momentum(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                         const MomentumMath& math) {
  gpu::launch(momentum_direction_kernel, blocks_for(n), kThreads, gpu::compute_stream(), n, g,
              state, math, static_cast<float*>(nullptr), static_cast<BF16*>(nullptr),
              codes_of(g, state));
}

TH_KERNEL void lion_step_kernel(std::int64_t n, UpdateSource g, StoredValues weight,
                                StoredValues state, LionMath math, WeightDecay decay, Codes codes) {
  const float first = decay_before(decay), last = decay_after(decay);
  const Elements at = elements_of_thread(n);
  float x[kEach], w[kEach], m[kEach];
  open_scaled(g, at, codes.source, x);
  open(weight, at, {}, w);
  open(state, at, codes.first, m);
  for (int i = 0; i < kEach; ++i) {
    const MomentumResult r = lion_update(x[i], m[i], math);
    m[i] = r.m;
    w[i] = stepped(w[i], math.lr * r.update, first, last);
  }
  close(weight, at, {}, w);
  close(state, at, codes.first, m);
}

void lion_step(const WeightUpdate& u, const StoredValues& state, const LionMath& math) {
  gpu::launch(lion_step_kernel, blocks_for(u.n), kThreads, gpu::compute_stream(), u.n, u.source,
              u.weight, state, math, u.decay, codes_of(u.source, state));
}

TH_KERNEL void scaled_step_kernel(std::int64_t n, std::int64_t width, UpdateSource d,
                                  StoredValues weight, Scaling s, WeightDecay decay, Codes codes) {
  const float first = decay_before(decay), last = decay_after(decay);
  const Elements at = elements_of_thread(n);
  float x[kEach], w[kEach];
  open_scaled(d, at, codes.source, x);
  open(weight, at, {}, w);
  for (int i = 0; i < kEach; ++i) {
    if (i >= at.count) continue;
    const std::int64_t element = at.begin + i;
    const float factor = s.lr * (s.rows == nullptr ? 1.0f : s.rows[element / width]);
    float value = s.sign ? sign_of(x[i]) : x[i];
    if (s.columns != nullptr) value *= s.columns[element % width];
    w[i] = stepped(w[i], factor * value, first, last);
  }
  close(weight, at, {}, w);
}

void scaled_step(const WeightUpdate& u, std::int64_t width, const Scaling& scaling) {
  gpu::launch(scaled_step_kernel, blocks_for(u.n), kThreads, gpu::compute_stream(), u.n, width,
              u.source, u.weight, scaling, u.decay, codes_of(u.source));
}

// One element of any kind of values.
TH_DEVICE float element_of(const StoredValues& s, std::int64_t i, const DeviceCodes& codes) {
  float out[kEach];
  open(s, {i, 1}, codes, out);
  return out[0];
}

TH_KERNEL void row_squares_kernel(std::int64_t width, UpdateSource x, double* out,
                                  const float* columns, Codes codes) {
  const std::int64_t row = blockIdx.x;
  double sum = 0;
  for (std::int64_t c = threadIdx.x; c < width; c += kThreads) {
    float value = element_of(x.values, row * width + c, codes.source);
    if (columns != nullptr) value *= columns[c];
    const auto scaled = static_cast<double>(value * x.scale);
    sum += scaled * scaled;
  }
  sum = gpu::block_sum<kThreads>(sum);
  if (threadIdx.x == 0) out[row] = sum;
}

void row_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, double* out,
                 const float* columns) {
  gpu::launch(row_squares_kernel, static_cast<unsigned>(rows), kThreads, gpu::compute_stream(),
              width, x, out, columns, codes_of(x));
}

TH_KERNEL void column_squares_kernel(std::int64_t rows, std::int64_t width, UpdateSource x,
                                     float* out, Codes codes) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= width) return;
  double sum = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto value =
        static_cast<double>(element_of(x.values, r * width + c, codes.source) * x.scale);
    sum += value * value;
  }
  out[c] += static_cast<float>(sum);
}

void column_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, float* out) {
  gpu::launch_flat(column_squares_kernel, static_cast<unsigned>((width + kThreads - 1) / kThreads),
                   kThreads, gpu::compute_stream(), rows, width, x, out, codes_of(x));
}

TH_KERNEL void store_values_kernel(std::int64_t n, UpdateSource x, StoredValues to, Codes codes) {
  const Elements at = elements_of_thread(n);
  float values[kEach];
  open_scaled(x, at, codes.source, values);
  close(to, at, codes.first, values);
}

void store_values(std::int64_t n, const UpdateSource& x, const StoredValues& to) {
  gpu::launch(store_values_kernel, blocks_for(n), kThreads, gpu::compute_stream(), n, x, to,
              codes_of(x, to));
}

// A thread has eight elements: two Philox blocks of four words.
TH_KERNEL void fill_normal_kernel(std::int64_t n, std::uint64_t key, std::uint64_t index,
                                  float scale, float* to_f32, BF16* to_bf16) {
  const Elements at = elements_of_thread(n);
  float values[kEach];
  for (int pair = 0; pair < kEach / 4; ++pair) {
    std::uint16_t h[8];
    random_halves(key, index, static_cast<std::uint64_t>(at.begin) / 4 + pair, h);
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t a = h[4 * i] | static_cast<std::uint32_t>(h[4 * i + 1]) << 16,
                          b = h[4 * i + 2] | static_cast<std::uint32_t>(h[4 * i + 3]) << 16;
      normal_pair(a, b, scale, values[4 * pair + 2 * i], values[4 * pair + 2 * i + 1]);
    }
  }
  if (to_f32 != nullptr) store_floats<kEach>(to_f32 + at.begin, at.count, values);
  if (to_bf16 != nullptr) store_floats<kEach>(to_bf16 + at.begin, at.count, values);
}

void fill_normal(const Tensor& out, const CounterRandom& random, double scale) {
  const bool is_bf16 = out.dtype() == DType::kBF16;
  gpu::launch_flat(fill_normal_kernel, blocks_for(out.numel()), kThreads, gpu::compute_stream(),
                   out.numel(), random.key(), random.index(), static_cast<float>(scale),
                   is_bf16 ? nullptr : static_cast<float*>(out.raw()),
                   is_bf16 ? static_cast<BF16*>(out.raw()) : nullptr);
}

template <typename T>
TH_KERNEL void scale_values_kernel(std::int64_t n, float factor, T* x) {
  const Elements at = elements_of_thread(n);
  float values[kEach] = {};
  load_floats<kEach>(x + at.begin, at.count, values);
  for (float& value : values) value *= factor;
  store_floats<kEach>(x + at.begin, at.count, values);
}

void scale_values(const Tensor& x, float factor) {
  with_float_type(x.dtype(), [&](auto* type) {
    gpu::launch_flat(scale_values_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_for(x.numel()), kThreads, gpu::compute_stream(), x.numel(), factor,
                     static_cast<decltype(type)>(x.raw()));
  });
}

template <typename T>
TH_KERNEL void polynomial_kernel(std::int64_t n, const float* a, const float* a2, Polynomial c,
                                 T* p) {
  const Elements at = elements_of_thread(n * n);
  float x[kEach] = {}, y[kEach] = {};
  load_floats<kEach>(a + at.begin, at.count, x);
  load_floats<kEach>(a2 + at.begin, at.count, y);
  for (int i = 0; i < kEach; ++i)
    x[i] = polynomial_value(x[i], y[i], (at.begin + i) % (n + 1) == 0, c);
  store_floats<kEach>(p + at.begin, at.count, x);
}

void newton_schulz_polynomial(const Tensor& p, const Tensor& a, const Tensor& a2,
                              const std::array<float, 3>& c) {
  with_float_type(p.dtype(), [&](auto* type) {
    gpu::launch_flat(polynomial_kernel<std::remove_pointer_t<decltype(type)>>,
                     blocks_for(p.numel()), kThreads, gpu::compute_stream(), p.dim(0),
                     a.data<float>(), a2.data<float>(), Polynomial{c[0], c[1], c[2]},
                     static_cast<decltype(type)>(p.raw()));
  });
}

}  // namespace

const ElementwiseTable kElementwise{adam_step,
                                    adam_direction,
                                    momentum_step,
                                    momentum_direction,
                                    accumulate_momentum,
                                    lion_step,
                                    scaled_step,
                                    row_squares,
                                    column_squares,
                                    store_values,
                                    fill_normal,
                                    scale_values,
                                    newton_schulz_polynomial};

}  // namespace thimble::cuda
