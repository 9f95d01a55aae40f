#include "optim/adamw.h"

#include <cmath>
#include <string_view>

#include "core/ops/kernel_table.h"
#include "core/ops/op_observer.h"
#include "optim/adamw_kernel.h"

namespace thimble {

std::vector<StateSlot> AdamW::state_slots(const ParamInfo& info, Slice slice) const {
  const Shape shape =
      info.is_matrix() ? Shape{slice.rows(), info.storage_shape()[1]} : Shape{slice.rows()};
  return {{"exp_avg", DType::kF32, shape}, {"exp_avg_sq", DType::kF32, shape}};
}

void AdamW::round(int, const UpdateArgs& args, std::span<const float>, std::span<float>) const {
  if (args.master.device().planning) return;
  const OpTimer timer("adamw");
  TH_CHECK(args.state.size() == 2 && args.grad.numel() == args.master.numel());
  const auto t = static_cast<double>(args.step);
  const double c1 = 1 - std::pow(options_.beta1, t), c2 = 1 - std::pow(options_.beta2, t);
  const bool hf = options_.eps_mode == EpsMode::kHf;
  const bool decays = options_.decay_all || args.info.is_matrix();
  const AdamWStep step{
      .n = args.grad.numel(),
      .grad = args.grad.raw(),
      .grad_dtype = args.grad.dtype(),
      .master = args.master.data<float>(),
      .exp_avg = args.state[0].data<float>(),
      .exp_avg_sq = args.state[1].data<float>(),
      .weight = args.weight.defined() ? args.weight.data<BF16>() : nullptr,
      .grad_scale = static_cast<float>(args.grad_scale),
      .beta1 = static_cast<float>(options_.beta1),
      .beta2 = static_cast<float>(options_.beta2),
      .step_size = static_cast<float>(args.lr / c1 * (hf ? std::sqrt(c2) : 1.0)),
      .inverse_sqrt_c2 = static_cast<float>(hf ? 1.0 : 1.0 / std::sqrt(c2)),
      .eps = static_cast<float>(options_.eps),
      .decay = static_cast<float>(decays ? 1 - args.lr * options_.weight_decay : 1.0),
      .decay_after = options_.decay_after,
  };
  if (std::string_view(cpu_isa()) == "avx2") {
    avx2::adamw_step(step);
  } else {
    avx512::adamw_step(step);
  }
}

}  // namespace thimble
