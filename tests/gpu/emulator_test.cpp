// The emulator that kernels are tested with: barriers, exchanges, and threads that miss them; and,
// on it, copies beside kernels and work that is recorded.
#include <gtest/gtest.h>

#include <vector>

#include "core/base/error.h"
#include "core/device/cuda/runtime.h"
#include "core/device/graph_cache.h"

namespace thimble::gpu {
namespace {

TH_KERNEL void sum_kernel(const float* in, std::int64_t n, float* out) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += in[blockIdx.x * n + i];
  const float total = block_sum<64>(sum), top = block_max<64>(sum);
  out[(blockIdx.x * blockDim.x + threadIdx.x) * 2] = total;
  out[(blockIdx.x * blockDim.x + threadIdx.x) * 2 + 1] = top;
}

TEST(EmulatorTest, BlocksSumAndEveryThreadHasTheResult) {
  constexpr std::int64_t kValues = 1000;
  std::vector<float> in(3 * kValues), out(3 * 64 * 2);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 17);
  launch(sum_kernel, 3, 64, compute_stream(), in.data(), kValues, out.data());
  for (std::size_t b = 0; b < 3; ++b) {
    float sum = 0, top = 0, parts[64] = {};
    for (std::size_t i = 0; i < kValues; ++i) {
      sum += in[b * kValues + i];
      parts[i % 64] += in[b * kValues + i];
    }
    for (const float p : parts) top = std::max(top, p);
    for (std::size_t t = 0; t < 64; ++t) {
      EXPECT_EQ(out[(b * 64 + t) * 2], sum);
      EXPECT_EQ(out[(b * 64 + t) * 2 + 1], top);
    }
  }
}

TEST(EmulatorTest, AThreadThatMissesABarrierIsAnError) {
  EXPECT_THROW(run_grid(1, 64,
                        [] {
                          if (threadIdx.x != 5) block_barrier();
                        }),
               LogicError);
  EXPECT_THROW(run_grid(1, 64,
                        [] {
                          if (threadIdx.x < 32) {
                            block_barrier();
                          } else {
                            static_cast<void>(shuffle_xor(1.0f, 1));
                            static_cast<void>(shuffle_xor(1.0f, 1));
                          }
                        }),
               LogicError);
}

TEST(EmulatorTest, ErrorsOfThreadsSurface) {
  EXPECT_THROW(run_grid(2, 32, [] { throw UserError("no"); }), UserError);
}

// Only kernels and copies may touch the emulated GPU's memory.
TEST(EmulatorDeathTest, TheHostCannotTouchItsMemory) {
  const DeviceMemory& memory = *driver().memory;
  constexpr std::int64_t kBytes = 1 << 20;
  void* base = memory.allocate(kBytes);
  const std::vector<char> sent(kBytes, 7);
  std::vector<char> back(kBytes);
  memory.from_host(base, sent.data(), kBytes);
  memory.to_host(back.data(), base, kBytes);
  EXPECT_EQ(back, sent);
  EXPECT_DEATH(static_cast<void>(*static_cast<volatile char*>(base)), "");
  memory.release(base, kBytes);
}

TH_KERNEL void add_one_kernel(float* x) {
  *x += 1;
}

// One value on the device.
class DeviceValue {
 public:
  DeviceValue() : at_(static_cast<float*>(memory().allocate(kBytes))) { set(0); }
  ~DeviceValue() { memory().release(at_, kBytes); }
  DeviceValue(const DeviceValue&) = delete;
  DeviceValue& operator=(const DeviceValue&) = delete;
  static const DeviceMemory& memory() { return *driver().memory; }
  float* at() const { return at_; }
  void set(float value) const { memory().from_host(at_, &value, sizeof(value)); }
  float get() const {
    float value = 0;
    memory().to_host(&value, at_, sizeof(value));
    return value;
  }
  void add_one() const { launch(add_one_kernel, 1, 1, compute_stream(), at_); }
  Completion start_from(const float& host) const {
    return memory().start_from_host(at_, &host, sizeof(host));
  }
  Completion start_to(float& host) const {
    return memory().start_to_host(&host, at_, sizeof(host));
  }

 private:
  static constexpr std::int64_t kBytes = 4096;
  float* at_;
};

TEST(EmulatedCopyTest, BytesArriveWhenSomebodyWaits) {
  const DeviceValue x;
  const float sent = 3;
  float got = 0;
  Completion in = x.start_from(sent);
  EXPECT_EQ(x.get(), 0);  // the emulator copies as late as it may
  in.follow();
  x.add_one();
  Completion out = x.start_to(got);
  EXPECT_EQ(got, 0);
  out.wait();
  EXPECT_EQ(got, 4);
  out.wait();  // nothing is under way any more
  in.follow();
  EXPECT_EQ(x.get(), 4);  // the copy is not done again
}

TEST(EmulatedCopyTest, TheEndOfACompletionWaits) {
  const DeviceValue x;
  float got = 0;
  x.set(5);
  { const Completion out = x.start_to(got); }
  EXPECT_EQ(got, 5);
  Completion first = x.start_to(got);
  x.set(6);
  first = Completion();
  EXPECT_EQ(got, 6);
}

TEST(GraphCacheTest, IsDoneThenRecordedThenReplayed) {
  using How = GraphCache::How;
  const DeviceValue x;
  GraphCache work(driver().graphs);
  int calls = 0;
  const auto body = [&] {
    ++calls;
    x.add_one();
    zero(x.at() + 1, sizeof(float));
    copy(x.at() + 1, x.at(), sizeof(float));
  };
  EXPECT_EQ(work.run(1, body), How::kDone);
  EXPECT_EQ(work.run(1, body), How::kRecorded);
  EXPECT_EQ(x.get(), 2);  // a record is done too
  EXPECT_EQ(work.run(1, body), How::kReplayed);
  EXPECT_EQ(work.run(1, body), How::kReplayed);
  EXPECT_EQ(x.get(), 4);
  EXPECT_EQ(calls, 2);
  // Another key: the record is of no use.
  EXPECT_EQ(work.run(2, body), How::kDone);
  EXPECT_EQ(work.run(1, body), How::kDone);
  EXPECT_EQ(work.run(1, body), How::kRecorded);
  EXPECT_EQ(x.get(), 7);
  EXPECT_EQ(work.replays(), 2);
  GraphCache never(nullptr);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(never.run(0, body), How::kDone);
}

TEST(GraphCacheTest, WhatCannotBeRecordedIsDoneAsItComes) {
  GpuGraphs spoilt = *driver().graphs;
  spoilt.end = []() -> void* {
    driver().graphs->release(driver().graphs->end());
    return nullptr;
  };
  const DeviceValue x;
  GraphCache work(&spoilt);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(work.run(1, [&] { x.add_one(); }), GraphCache::How::kDone);
  EXPECT_EQ(x.get(), 4);
}

TEST(GraphCacheTest, WhoWaitsCannotBeRecorded) {
  const DeviceValue x;
  GraphCache work(driver().graphs);
  const auto body = [&] {
    x.add_one();
    static_cast<void>(x.get());
  };
  EXPECT_EQ(work.run(1, body), GraphCache::How::kDone);
  EXPECT_THROW(work.run(1, body), SystemError);
  EXPECT_EQ(x.get(), 1);  // nothing of it was done, and work goes on as it comes
  x.add_one();
  EXPECT_EQ(x.get(), 2);
}

}  // namespace
}  // namespace thimble::gpu
