#include "core/nn/distillation.h"

#include <algorithm>
#include <cmath>

#include "core/base/threads.h"
#include "core/nn/op_node.h"

namespace thimble {
namespace {

constexpr std::int64_t kDistillCost = 40;  // exponentials of two logits beside reading a value

// Log of the softmax's denominator.
double log_denominator(const float* logits, std::int64_t n) {
  const float top = *std::max_element(logits, logits + n);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += std::exp(logits[i] - top);
  return top + std::log(sum);
}

// One position: its loss, and the gradient of the student's logits in their place.
struct DistilledRow {
  float* student;
  const float* teacher;
  std::int64_t vocab;
  std::int32_t target;
  float share, scale;  // of the gradient: the position's weight and that of the step

  float run() const {
    const double mine = log_denominator(student, vocab), theirs = log_denominator(teacher, vocab);
    double divergence = 0;
    const double entropy = mine - student[target];
    for (std::int64_t i = 0; i < vocab; ++i) {
      const double log_p = teacher[i] - theirs, log_q = student[i] - mine;
      const double p = std::exp(log_p), q = std::exp(log_q);
      divergence += p * (log_p - log_q);
      const double slope = share * (q - p) + (1 - share) * (q - (i == target ? 1 : 0));
      student[i] = static_cast<float>(scale * slope);
    }
    return static_cast<float>(share * divergence + (1 - share) * entropy);
  }
};

}  // namespace

Tensor distilled_loss(Context& ctx, const Var& x, Weight head, const DistillInputs& in) {
  const NodeContext node{ctx.store, ctx.arena};
  const std::int64_t rows = x.value.dim(0), vocab = ctx.store.params().info(head.id).shape[0];
  const std::int64_t chunk = std::min(rows, lm_head_chunk_rows(vocab, DeviceKind::kCpu));
  Tensor losses =
      Tensor::empty(ctx.arena, MemoryTag::kActivations, DType::kF32, Shape{rows}, "losses");
  const bool backward = ctx.recording() && x.needs_grad();
  const Tensor dx = backward ? gradient_of(ctx.arena, x.value) : Tensor();
  TH_CHECK(ctx.tape == nullptr || !ctx.tape->sink().wants(head.id), "a head that is trained");
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t end = std::min(rows, begin + chunk);
    const Tensor student = lm_head_logits(ctx, x.value.rows(begin, end), head);
    const Tensor teacher = lm_head_logits(ctx, in.teacher.rows(begin, end), head);
    if (!ctx.arena.device().planning) {
      parallel_for_each(end - begin, kDistillCost * vocab, [&](std::int64_t r) {
        const float weight = in.weights.data<float>()[begin + r];
        float* row = student.data<float>() + r * vocab;
        losses.data<float>()[begin + r] = 0;
        if (weight == 0) {
          std::fill_n(row, vocab, 0.0f);
          return;
        }
        losses.data<float>()[begin + r] =
            DistilledRow{.student = row,
                         .teacher = teacher.data<float>() + r * vocab,
                         .vocab = vocab,
                         .target = in.targets.data<std::int32_t>()[begin + r],
                         .share = in.teacher_share,
                         .scale = weight * in.grad_scale}
                .run();
      });
    }
    if (!backward) continue;
    const Tensor slopes = Tensor::empty(ctx.arena, MemoryTag::kWorkspace, x.value.dtype(),
                                        student.shape(), "gradient of logits");
    ops::cast(slopes, student);
    multiply(node, {slopes, head, false}, dx.rows(begin, end), {});
  }
  if (backward) ctx.tape->record([dx, id = x.id](Tape& tape) { tape.add_grad(id, dx); });
  return losses;
}

}  // namespace thimble
