// The LM head: logits exist only for a chunk of rows at a time.
#include <algorithm>

#include "core/nn/functional.h"

namespace thimble {
namespace {

constexpr std::int64_t kRowStep = 64;

// The LM head as the B operand of x W^T.
ops::Operand logits_operand(const Tensor& w, bool stored_transposed) {
  return {w, !stored_transposed};
}

// One forward pass of the LM head, and its backward pass, over all chunks.
class LmHeadStep {
 public:
  LmHeadStep(Context& ctx, const Tensor& x, Weight head, const LossInputs& inputs)
      : ctx_(ctx),
        x_(x),
        head_(head),
        inputs_(inputs),
        pin_(ctx.store, head.block),
        weight_(pin_.view(head.id)),
        transposed_(ctx.store.params().info(head.id).transposed()),
        vocab_(ctx.store.params().info(head.id).shape[0]) {
    losses =
        Tensor::empty(ctx.arena, MemoryTag::kActivations, DType::kF32, Shape{x.dim(0)}, "losses");
  }

  Tensor losses;
  Tensor dx;  // defined if wanted
  bool train_weight = false;

  void run() {
    const std::int64_t rows = x_.dim(0),
                       chunk = std::min(rows, lm_head_chunk_rows(vocab_, x_.device().kind));
    const Tensor logits = Tensor::empty(ctx_.arena, MemoryTag::kWorkspace, DType::kF32,
                                        Shape{chunk, vocab_}, "logits");
    // Chunks after the second that have as many rows ask for the same memory as it: when it is
    // planned, they need not be gone through.
    const std::int64_t last = rows > 0 ? (rows - 1) / chunk * chunk : 0;
    for (std::int64_t begin = 0; begin < rows; begin += chunk) {
      if (x_.device().planning && begin > chunk) begin = last;
      const std::int64_t end = std::min(rows, begin + chunk);
      run_chunk(begin, end, logits.rows(0, end - begin));
    }
  }

 private:
  void run_chunk(std::int64_t begin, std::int64_t end, const Tensor& logits) {
    const Tensor x = x_.rows(begin, end);
    matmul(x, logits_operand(weight_, transposed_), logits);
    const bool backward = dx.defined() || train_weight;
    const Tensor grad =
        ops::cross_entropy({.logits = logits,
                            .targets = inputs_.targets.rows(begin, end),
                            .weights = inputs_.weights.rows(begin, end),
                            .losses = losses.rows(begin, end),
                            .grad_dtype = backward ? std::optional(x.dtype()) : std::nullopt,
                            .grad_scale = inputs_.grad_scale,
                            .softcap = inputs_.softcap});
    if (dx.defined()) matmul(grad, {weight_, transposed_}, dx.rows(begin, end));
    if (train_weight) {
      const GradTarget target = ctx_.tape->sink().accumulate_into(head_.id);
      const Tensor& first = transposed_ ? x : grad;
      const Tensor& second = transposed_ ? grad : x;
      ops::matmul(ctx_.arena, {first, true}, {second}, target.tensor,
                  {.accumulate = target.accumulate});
    }
  }

  void matmul(const Tensor& a, ops::Operand b, const Tensor& c) {
    const Tensor prepacked = pin_.prepacked(head_.id, ops::matmul_spec({a}, b, c));
    ops::matmul(ctx_.arena, {a}, b, c, {.prepacked = prepacked.defined() ? &prepacked : nullptr});
  }

  Context& ctx_;
  const Tensor x_;
  Weight head_;
  const LossInputs& inputs_;
  Pin pin_;
  Tensor weight_;
  bool transposed_;
  std::int64_t vocab_;
};

}  // namespace

std::int64_t lm_head_chunk_rows(std::int64_t vocab, DeviceKind device) {
  const bool cpu = device == DeviceKind::kCpu;
  const std::int64_t bytes = cpu ? 64 * kMiB : kGiB, most = cpu ? 1024 : 8192;
  return std::clamp(bytes / (4 * vocab) / kRowStep * kRowStep, kRowStep, most);
}

Tensor lm_head_loss(Context& ctx, const Var& x, Weight head, const LossInputs& inputs) {
  LmHeadStep step(ctx, x.value, head, inputs);
  const bool record = ctx.recording();
  if (record) {
    step.train_weight = ctx.tape->sink().wants(head.id);
    if (step.train_weight) ctx.tape->begin_use(head.id);
    if (x.needs_grad()) {
      step.dx = Tensor::empty(ctx.arena, MemoryTag::kActivations, x.value.dtype(), x.value.shape(),
                              "gradient");
    }
  }
  step.run();
  if (record) {
    ctx.tape->record([head, train = step.train_weight, x_id = x.id, dx = step.dx](Tape& tape) {
      if (train) tape.finish_use(head.id);
      if (dx.defined()) tape.add_grad(x_id, dx);
    });
  }
  return step.losses;
}

Tensor lm_head_logits(Context& ctx, const Tensor& x, Weight head) {
  const Pin pin(ctx.store, head.block);
  const ParamInfo& info = ctx.store.params().info(head.id);
  Tensor logits = Tensor::empty(ctx.arena, MemoryTag::kWorkspace, DType::kF32,
                                Shape{x.dim(0), info.shape[0]}, "logits");
  const Tensor weight = pin.view(head.id);
  const ops::Operand operand = logits_operand(weight, info.transposed());
  const Tensor prepacked = pin.prepacked(head.id, ops::matmul_spec({x}, operand, logits));
  ops::matmul(ctx.arena, {x}, operand, logits,
              {.prepacked = prepacked.defined() ? &prepacked : nullptr});
  return logits;
}

}  // namespace thimble
