// Transfers of activations that fail. Every body runs in a process of its own, for a failpoint is
// armed once.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "offload/offloaded_activations.h"
#include "tests/io/in_child.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::in_child;
using testing::kBad;
using testing::kGood;
using testing::kNothingFailed;

constexpr std::int64_t kValues = 100'000;

// Saves so much that the first ones leave, and brings those back.
int save_and_return(const std::filesystem::path& directory) {
  const auto arena = Arena::make_cpu(64 * kMiB);
  OffloadedActivations away(*arena, {.directories = {directory}, .window_bytes = 256 * kKiB});
  std::vector<std::shared_ptr<SavedTensor>> saved;
  for (int i = 0; i < 8; ++i) {
    const Tensor tensor =
        Tensor::empty(*arena, MemoryTag::kActivations, DType::kF32, Shape{kValues}, "made");
    std::fill_n(tensor.data<float>(), kValues, static_cast<float>(i));
    saved.push_back(away.save(tensor));
  }
  for (; !saved.empty(); saved.pop_back()) {
    const Tensor back = saved.back()->get();
    const float want = static_cast<float>(saved.size() - 1);
    if (std::count(back.data<float>(), back.data<float>() + kValues, want) != kValues) return kBad;
  }
  return kNothingFailed;
}

TEST(ActivationFaultTest, AFailedTransferIsAnErrorAndAShortOneIsNone) {
  const testing::TempDir dir;
  const auto fails = [&] {
    try {
      return save_and_return(dir.path());
    } catch (const SystemError&) {
      return kGood;
    }
  };
  for (const char* at : {"io.write:1:eio", "io.write:6:enospc", "io.read:1:eio", "io.read:9:eio"})
    EXPECT_EQ(in_child(at, fails), kGood) << at;
  for (const char* at : {"io.write:1:short", "io.read:3:short"})
    EXPECT_EQ(in_child(at, fails), kNothingFailed) << at;
  EXPECT_EQ(in_child("io.write:4:kill", fails), testing::kKilled);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "nothing outlives the process";
}

}  // namespace
}  // namespace thimble
