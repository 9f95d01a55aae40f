// The same training on the CPU and on GPUs.
#pragma once

#include "core/device/gpu.h"
#include "tests/parallel/tiny_training.h"
#include "train/gpu_backend.h"

namespace thimble {

class GpuEngine : public testing::Test {
 public:
  static void SetUpTestSuite() { register_gpu_backend(); }
  void SetUp() override { need_gpus(1); }

 protected:
  void need_gpus(int count) {
    if (gpu_count() < count)
      GTEST_SKIP() << "needs " << count << " GPUs; there are " << gpu_count();
  }
};

// A key's bias moves no softmax: its gradient is rounding alone.
inline bool has_gradient(const ParamInfo& info) {
  return !info.name.ends_with("k_proj.bias");
}

// Losses and norms of `steps` of three steps, the first gradients, and the weights at the end.
inline void expect_like_the_cpu(Setting s, int ranks, double tolerance, double of_weights,
                                std::size_t steps = 3) {
  const Outcome want = reference(s, ranks);
  s.device = DeviceKind::kGpu;
  run_ranks(ranks, [&](Communicator& comm) {
    choose_gpu(comm.rank());
    const Outcome got =
        train(comm, s, batches_of(comm.rank(), ranks, s.accumulation_steps, s.empty));
    const std::unique_ptr<TrainableModel> made = tiny_model(s);
    const TrainableModel& model = *made;
    const std::string what = fmt::format("{} stage {}", s.optimizer, s.stage);
    for (std::size_t i = 0; i < steps; ++i) {
      EXPECT_NEAR(got.losses[i], want.losses[i], tolerance * want.losses[i]) << what;
      EXPECT_NEAR(got.norms[i], want.norms[i], tolerance * want.norms[i]) << what;
    }
    for (const ParamId id : model.params().ids()) {
      const ParamInfo& info = model.params().info(id);
      if (!has_gradient(info)) continue;
      const auto i = static_cast<std::size_t>(id);
      const auto off = [&](const auto& ours, const auto& theirs) {
        return relative(ours[i], rows_of(theirs[i], info, got.slices[i]));
      };
      if (!s.fused && ranks == 1) {
        EXPECT_TRUE(off(got.grads, want.grads) <= 2 * tolerance)
            << what << " " << info.name << " " << off(got.grads, want.grads);
      }
      EXPECT_TRUE(off(got.masters, want.masters) <= of_weights)
          << what << " " << info.name << " " << off(got.masters, want.masters);
    }
  });
}

}  // namespace thimble
