#include "compress/head_functions.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "core/base/threads.h"
#include "core/nn/op_node.h"

namespace thimble {
namespace {

constexpr std::int64_t kExpCost = 16;  // an exponential beside reading a value

float load_at(const Tensor& x, std::int64_t i) {
  return x.dtype() == DType::kBF16 ? to_float(x.data<BF16>()[i]) : x.data<float>()[i];
}
void store_at(const Tensor& x, std::int64_t i, float value) {
  if (x.dtype() == DType::kBF16) {
    x.data<BF16>()[i] = to_bf16(value);
  } else {
    x.data<float>()[i] = value;
  }
}

constexpr float kGeluScale = 0.7978845608f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

float act(float x, HeadActivation activation) {
  if (activation == HeadActivation::kSilu) return x / (1 + std::exp(-x));
  return 0.5f * x * (1 + std::tanh(kGeluScale * (x + kGeluCubic * x * x * x)));
}

float act_slope(float x, HeadActivation activation) {
  if (activation == HeadActivation::kSilu) {
    const float s = 1 / (1 + std::exp(-x));
    return s * (1 + x * (1 - s));
  }
  const float t = std::tanh(kGeluScale * (x + kGeluCubic * x * x * x));
  return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCubic * x * x);
}

}  // namespace

Tensor join_columns(Arena& arena, MemoryTag tag, std::span<const Tensor> parts) {
  std::int64_t width = 0;
  for (const Tensor& part : parts) width += part.dim(1);
  const std::int64_t rows = parts[0].dim(0), size = dtype_size(parts[0].dtype());
  Tensor out = Tensor::empty(arena, tag, parts[0].dtype(), Shape{rows, width}, "joined columns");
  if (arena.device().planning) return out;
  parallel_for_each(rows, width, [&](std::int64_t r) {
    auto* to = static_cast<char*>(out.raw()) + r * width * size;
    for (const Tensor& part : parts) {
      const std::int64_t bytes = part.dim(1) * size;
      std::memcpy(to, static_cast<const char*>(part.raw()) + r * part.row_stride() * size,
                  static_cast<std::size_t>(bytes));
      to += bytes;
    }
  });
  return out;
}

void activate(const Tensor& out, const Tensor& x, HeadActivation activation) {
  if (x.device().planning) return;
  parallel_for(x.numel(), kExpCost, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) store_at(out, i, act(load_at(x, i), activation));
  });
}

Var activate(Context& ctx, const Var& x, HeadActivation activation) {
  Tensor out = thimble::activation(ctx, x.value.shape(), "activated");
  activate(out, x.value, activation);
  Var y = make_var(ctx, std::move(out), x.needs_grad());
  if (!ctx.recording() || !y.needs_grad()) return y;
  ctx.tape->record([saved = ctx.tape->save(x), activation, x_id = x.id, y_id = y.id,
                    arena = &ctx.arena](Tape& tape) {
    const Tensor dy = tape.take_grad(y_id), from = saved->get();
    const Tensor dx = gradient_of(*arena, from);
    if (!arena->device().planning) {
      parallel_for(from.numel(), kExpCost, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          store_at(dx, i, load_at(dy, i) * act_slope(load_at(from, i), activation));
      });
    }
    tape.add_grad(x_id, dx);
  });
  return y;
}

namespace {

// One pass over the rows: their losses, and the gradient of each score, where wanted.
class ScorePass {
 public:
  ScorePass(const Tensor& scores, const ScoreLoss& in) : scores_(scores), in_(in) {}

  bool is_labelled(std::int64_t row) const { return in_.weights.data<float>()[row] != 0; }
  // Whether the position has a neighbour before it in its document, and both have labels.
  bool has_pair(std::int64_t row) const {
    const std::int64_t at = row % (scores_.dim(0) / in_.sequences);
    return at > in_.segment_start.data<std::int32_t>()[row] && is_labelled(row) &&
           is_labelled(row - 1);
  }
  float loss(std::int64_t row) const {
    if (!is_labelled(row)) return 0;
    float sum = 0;
    for (std::int64_t h = 0; h < heads(); ++h) {
      const float error = std::abs(score(row, h) - label(row, h));
      sum += in_.regression * (error < 1 ? 0.5f * error * error : error - 0.5f);
      if (!has_pair(row)) continue;
      const float step = score(row, h) - score(row - 1, h);
      sum += in_.smoothness * step * step;
    }
    return sum;
  }
  float slope(std::int64_t row, std::int64_t h) const {
    float sum = 0;
    const float* weights = in_.weights.data<float>();
    if (is_labelled(row)) {
      const float error = score(row, h) - label(row, h);
      sum += weights[row] * in_.regression * (error > 1 ? 1 : error < -1 ? -1 : error);
    }
    if (has_pair(row))
      sum += weights[row] * 2 * in_.smoothness * (score(row, h) - score(row - 1, h));
    if (row + 1 < scores_.dim(0) && has_pair(row + 1))
      sum -= weights[row + 1] * 2 * in_.smoothness * (score(row + 1, h) - score(row, h));
    return sum * in_.grad_scale;
  }
  std::int64_t heads() const { return scores_.dim(1); }

 private:
  float score(std::int64_t row, std::int64_t h) const {
    return load_at(scores_, row * heads() + h);
  }
  float label(std::int64_t row, std::int64_t h) const {
    return in_.labels.data<float>()[row * heads() + h];
  }

  const Tensor& scores_;
  const ScoreLoss& in_;
};

}  // namespace

void add_score_loss(Context& ctx, const Var& scores, const ScoreLoss& in, const Tensor& losses) {
  const Tensor& s = scores.value;
  const bool planning = ctx.arena.device().planning;
  const ScorePass pass(s, in);
  const bool again = ctx.tape != nullptr && ctx.tape->replaying();
  for (std::int64_t row = 0; row < s.dim(0) && !planning && !again; ++row)
    losses.data<float>()[row] += pass.loss(row);
  if (!ctx.recording() || !scores.needs_grad()) return;
  const Tensor ds = gradient_of(ctx.arena, s);
  for (std::int64_t row = 0; row < s.dim(0) && !planning; ++row) {
    for (std::int64_t h = 0; h < pass.heads(); ++h)
      store_at(ds, row * pass.heads() + h, pass.slope(row, h));
  }
  ctx.tape->record([ds, id = scores.id](Tape& tape) { tape.add_grad(id, ds); });
}

}  // namespace thimble
