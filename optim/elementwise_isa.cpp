#include "core/base/threads.h"
#include "optim/element_math.h"
#include "optim/elementwise_table.h"
#include "optim/stored_values_isa.h"

namespace thimble::THIMBLE_ISA {
namespace {

struct Buffer {
  alignas(64) float values[kRun];
};

// The source's run, scaled, always in the buffer.
const float* open_scaled(const UpdateSource& s, std::int64_t begin, std::int64_t n,
                         Buffer& buffer) {
  const float* x = open(s.values, begin, n, buffer.values);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) buffer.values[i] = x[i] * s.scale;
  return buffer.values;
}

void adam_step(const WeightUpdate& u, const AdamState& state, const AdamMath& math) {
  const UpdateSource& g = u.source;
  const float first = decay_before(u.decay), last = decay_after(u.decay);
  for_runs(u.n, [&](std::int64_t begin, std::int64_t count) {
    Buffer gb, wb, mb, vb;
    const float* x = open(g.values, begin, count, gb.values);
    float* w = open(u.weight, begin, count, wb.values);
    float* m = open(state.exp_avg, begin, count, mb.values);
    float* v = open(state.exp_avg_sq, begin, count, vb.values);
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const AdamResult a = adam_update(x[i] * g.scale, m[i], v[i], math);
      m[i] = a.m;
      v[i] = a.v;
      w[i] = stepped(w[i], a.update, first, last);
    }
    close(u.weight, begin, count, w);
    close(state.exp_avg, begin, count, m);
    close(state.exp_avg_sq, begin, count, v);
  });
}

void adam_direction(std::int64_t n, const UpdateSource& g, const AdamState& state,
                    const AdamMath& math, float* out) {
  for_runs(n, [&](std::int64_t begin, std::int64_t count) {
    Buffer gb, mb, vb;
    const float* x = open(g.values, begin, count, gb.values);
    float* m = open(state.exp_avg, begin, count, mb.values);
    float* v = open(state.exp_avg_sq, begin, count, vb.values);
    float* to = out + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const AdamResult a = adam_update(x[i] * g.scale, m[i], v[i], math);
      m[i] = a.m;
      v[i] = a.v;
      to[i] = a.update;
    }
    close(state.exp_avg, begin, count, m);
    close(state.exp_avg_sq, begin, count, v);
  });
}

// Updates m in place; the update replaces x.
void momentum_run(float* x, float* m, std::int64_t n, const MomentumMath& math) {
  if (m == nullptr) return;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const MomentumResult r = momentum_update(x[i], m[i], math);
    m[i] = r.m;
    x[i] = r.update;
  }
}

void momentum_step(const WeightUpdate& u, const StoredValues& state, const MomentumMath& math) {
  const float first = decay_before(u.decay), last = decay_after(u.decay);
  for_runs(u.n, [&](std::int64_t begin, std::int64_t count) {
    Buffer gb, wb, mb;
    open_scaled(u.source, begin, count, gb);
    float* x = gb.values;
    float* w = open(u.weight, begin, count, wb.values);
    float* m = open(state, begin, count, mb.values);
    momentum_run(x, m, count, math);
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) w[i] = stepped(w[i], math.lr * x[i], first, last);
    close(u.weight, begin, count, w);
    close(state, begin, count, m);
  });
}

void momentum_direction(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                        const MomentumMath& math, const Tensor& out) {
  with_float_type(out.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* to = static_cast<T*>(out.raw());
    for_runs(n, [&](std::int64_t begin, std::int64_t count) {
      Buffer gb, mb;
      open_scaled(g, begin, count, gb);
      float* m = open(state, begin, count, mb.values);
      momentum_run(gb.values, m, count, math);
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) store(to + begin + i, gb.values[i]);
      close(state, begin, count, m);
    });
  });
}

void accumulate_momentum(std::int64_t n, const UpdateSource& g, const StoredValues& state,
                         const MomentumMath& math) {
  for_runs(n, [&](std::int64_t begin, std::int64_t count) {
    Buffer gb, mb;
    open_scaled(g, begin, count, gb);
    float* m = open(state, begin, count, mb.values);
    momentum_run(gb.values, m, count, math);
    close(state, begin, count, m);
  });
}

void lion_step(const WeightUpdate& u, const StoredValues& state, const LionMath& math) {
  const float first = decay_before(u.decay), last = decay_after(u.decay);
  for_runs(u.n, [&](std::int64_t begin, std::int64_t count) {
    Buffer gb, wb, mb;
    const float* x = open_scaled(u.source, begin, count, gb);
    float* w = open(u.weight, begin, count, wb.values);
    float* m = open(state, begin, count, mb.values);
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const MomentumResult r = lion_update(x[i], m[i], math);
      m[i] = r.m;
      w[i] = stepped(w[i], math.lr * r.update, first, last);
    }
    close(u.weight, begin, count, w);
    close(state, begin, count, m);
  });
}

void scaled_step(const WeightUpdate& u, std::int64_t width, const Scaling& s) {
  const float first = decay_before(u.decay), last = decay_after(u.decay);
  for_runs(u.n, [&](std::int64_t begin, std::int64_t count) {
    Buffer db, wb;
    open_scaled(u.source, begin, count, db);
    float* x = db.values;
    float* w = open(u.weight, begin, count, wb.values);
    for (std::int64_t at = 0; at < count;) {
      const std::int64_t row = (begin + at) / width, column = (begin + at) % width;
      const std::int64_t n = std::min(count - at, width - column);
      const float factor = s.lr * (s.rows == nullptr ? 1.0f : s.rows[row]);
      const float* columns = s.columns == nullptr ? nullptr : s.columns + column;
      if (s.sign) {
#pragma omp simd
        for (std::int64_t i = at; i < at + n; ++i) x[i] = sign_of(x[i]);
      }
      if (columns != nullptr) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) x[at + i] *= columns[i];
      }
#pragma omp simd
      for (std::int64_t i = at; i < at + n; ++i) w[i] = stepped(w[i], factor * x[i], first, last);
      at += n;
    }
    close(u.weight, begin, count, w);
  });
}

// f(row) -> pointer to its first value is not possible for 8-bit sources, whose blocks are opened
// whole: rows are read in runs, each row by one thread.
void row_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, double* out,
                 const float* columns) {
  parallel_for_each(rows, width, [&](std::int64_t r) {
    double sum = 0;
    for (std::int64_t at = r * width; at < (r + 1) * width;) {
      const std::int64_t aligned = at / kBlock8Bit * kBlock8Bit;
      const std::int64_t n = std::min(kRun, (r + 1) * width - aligned);
      Buffer buffer;
      const float* v = open(x.values, aligned, n, buffer.values);
      const std::int64_t first = at - aligned, column = at - r * width;
      if (columns != nullptr) {
        for (std::int64_t i = first; i < n; ++i)
          buffer.values[i] = v[i] * columns[column + i - first];
        v = buffer.values;
      }
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = first; i < n; ++i) {
        const double value = static_cast<double>(v[i] * x.scale);
        sum += value * value;
      }
      at = aligned + n;
    }
    out[r] = sum;
  });
}

void column_squares(std::int64_t rows, std::int64_t width, const UpdateSource& x, float* out) {
  constexpr std::int64_t kColumns = 64;
  const std::int64_t strips = (width + kColumns - 1) / kColumns;
  parallel_for_each(strips, rows * kColumns, [&](std::int64_t strip) {
    const std::int64_t column = strip * kColumns, n = std::min(kColumns, width - column);
    double sums[kColumns] = {};
    for (std::int64_t r = 0; r < rows; ++r) {
      Buffer buffer;
      const float* v = open(x.values, r * width + column, n, buffer.values);
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) {
        const double value = static_cast<double>(v[i] * x.scale);
        sums[i] += value * value;
      }
    }
    for (std::int64_t i = 0; i < n; ++i) out[column + i] += static_cast<float>(sums[i]);
  });
}

void store_values(std::int64_t n, const UpdateSource& x, const StoredValues& to) {
  for_runs(n, [&](std::int64_t begin, std::int64_t count) {
    Buffer from, opened;
    open_scaled(x, begin, count, from);
    float* values = open(to, begin, count, opened.values);
    std::copy_n(from.values, count, values);
    close(to, begin, count, values);
  });
}

void fill_normal(const Tensor& out, const CounterRandom& random, double scale) {
  const std::int64_t n = out.numel();
  const StoredValues stream{.key = random.key(), .index = random.index()};
  with_float_type(out.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* to = static_cast<T*>(out.raw());
    for_runs(n, [&](std::int64_t begin, std::int64_t count) {
      // A block of 8 halves is a block of 4 words.
      alignas(64) std::uint16_t halves[2 * kRun + 16];
      Buffer values;
      for (std::int64_t half = 0; half < count; half += kRun / 2) {
        const std::int64_t part = std::min(kRun / 2, count - half);
        static_cast<void>(noise(stream, 2 * static_cast<std::uint64_t>(begin + half),
                                (2 * part + 7) / 8 * 8, halves));
        const std::int64_t pairs = (part + 1) / 2;
#pragma omp simd
        for (std::int64_t i = 0; i < pairs; ++i) {
          const std::uint32_t a = halves[4 * i] | static_cast<std::uint32_t>(halves[4 * i + 1])
                                                      << 16,
                              b = halves[4 * i + 2] | static_cast<std::uint32_t>(halves[4 * i + 3])
                                                          << 16;
          normal_pair(a, b, static_cast<float>(scale), values.values[half + 2 * i],
                      values.values[half + 2 * i + 1]);
        }
      }
      for (std::int64_t i = 0; i < count; ++i) store(to + begin + i, values.values[i]);
    });
  });
}

void scale_values(const Tensor& x, float factor) {
  const std::int64_t n = x.numel();
  with_float_type(x.dtype(), [&](auto* type) {
    auto* values = static_cast<decltype(type)>(x.raw());
    parallel_for(n, 1, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) store(values + i, load(values + i) * factor);
    });
  });
}

void newton_schulz_polynomial(const Tensor& p, const Tensor& a, const Tensor& a2,
                              const std::array<float, 3>& c) {
  const std::int64_t n = p.dim(0);
  const float *x = a.data<float>(), *y = a2.data<float>();
  with_float_type(p.dtype(), [&](auto* type) {
    auto* out = static_cast<decltype(type)>(p.raw());
    parallel_for_each(n, n, [&](std::int64_t r) {
#pragma omp simd
      for (std::int64_t i = r * n; i < (r + 1) * n; ++i)
        store(out + i, polynomial_value(x[i], y[i], i - r * n == r, {c[0], c[1], c[2]}));
    });
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

}  // namespace thimble::THIMBLE_ISA
