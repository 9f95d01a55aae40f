// Ranks with a GPU each, whose tensors travel by NCCL.
#include <gtest/gtest.h>

#include "tests/gpu/like_the_cpu.h"

namespace thimble {
namespace {

class MultiGpu : public GpuEngine {
 public:
  void SetUp() override { need_gpus(kRanks); }

 protected:
  static constexpr int kRanks = 2;
};

TEST_F(MultiGpu, EveryStageTrainsAsOneCpuDoes) {
  for (const int stage : {0, 1, 2, 3}) {
    for (const char* optimizer : {"adamw", "adamw_8bit", "galore", "muon"}) {
      for (const int passes : {1, 3})
        expect_like_the_cpu({.optimizer = optimizer, .stage = stage, .accumulation_steps = passes},
                            kRanks, 1e-4, 1e-3);
    }
  }
}

// NCCL adds in an order of its own: two numbers have only one sum.
TEST_F(MultiGpu, NcclsOwnSumsOfTwoRanksAreOurs) {
  for (const int stage : {1, 2, 3}) {
    Outcome want[2];
    for (const bool by_transport : {false, true}) {
      const Setting s{.stage = stage,
                      .comm_dtype = DType::kF32,
                      .reduce_by_transport = by_transport,
                      .device = DeviceKind::kGpu};
      run_ranks(kRanks, [&](Communicator& comm) {
        choose_gpu(comm.rank());
        Outcome got = train(comm, s, batches_of(comm.rank(), kRanks, 1, -1));
        if (comm.rank() == 0) want[by_transport] = std::move(got);
      });
    }
    EXPECT_FALSE(want[0].losses.empty());
    EXPECT_EQ(want[1].losses, want[0].losses);
    EXPECT_EQ(want[1].masters, want[0].masters);
  }
}

}  // namespace
}  // namespace thimble
