#include "core/device/cuda/emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/device/cuda/emulated_gpu.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace thimble::gpu {

constinit thread_local Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr std::size_t kStackBytes = std::size_t{64} << 10;
constexpr unsigned kWarpThreads = 32;

enum class Waits : std::uint8_t { kNothing, kWarp, kBlock, kEnded };

// Runs one body after another: switching costs less than beginning anew.
struct Fibre {
  ucontext_t context{};
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  Waits waits = Waits::kNothing;
  double exchanged = 0;
  std::uint32_t fragments[6] = {};  // a warp's A and B
  void* sanitizer_stack = nullptr;
};

// The fibres of this thread; those of an unfinished block are not used again.
thread_local std::vector<std::unique_ptr<Fibre>> pool;

class Block {
 public:
  explicit Block(unsigned threads) {
    while (pool.size() < threads) pool.push_back(std::make_unique<Fibre>());
    for (unsigned t = 0; t < threads; ++t) fibres_.push_back(pool[t].get());
  }

  void run(const std::function<void()>& body);
  void wait(Waits what);
  double exchange(double value, unsigned mask);
  void multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

 private:
  static void enter();
  void resume(unsigned thread);
  void leave(Fibre& fibre);
  bool release();

  std::vector<Fibre*> fibres_;
  ucontext_t scheduler_{};
  jmp_buf scheduler_place_;
  void* scheduler_stack_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  std::size_t scheduler_bytes_ = 0;
  unsigned running_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr error_;
};

thread_local Block* current = nullptr;

void Block::enter() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &current->scheduler_bottom_, &current->scheduler_bytes_);
#endif
  for (;;) {
    try {
      (*current->body_)();
    } catch (...) {
      if (!current->error_) current->error_ = std::current_exception();
    }
    Fibre& fibre = *current->fibres_[current->running_];
    fibre.waits = Waits::kEnded;
    current->leave(fibre);
  }
}

// Returns to the scheduler. Jumps need no system call, as contexts do; the sanitizer knows only
// contexts.
void Block::leave(Fibre& fibre) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fibre.sanitizer_stack, scheduler_bottom_, scheduler_bytes_);
  swapcontext(&fibre.context, &scheduler_);
  // Another block may have resumed it.
  __sanitizer_finish_switch_fiber(fibre.sanitizer_stack, &current->scheduler_bottom_,
                                  &current->scheduler_bytes_);
#else
  if (_setjmp(fibre.place) == 0) _longjmp(scheduler_place_, 1);
#endif
}

void Block::resume(unsigned thread) {
  Fibre& fibre = *fibres_[thread];
  running_ = thread;
  threadIdx.x = thread;
  const bool begins = !std::exchange(fibre.begun, true);
  if (begins) {
    getcontext(&fibre.context);
    fibre.context.uc_stack = {.ss_sp = fibre.stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, &Block::enter, 0);
  }
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&scheduler_stack_, fibre.stack.get(), kStackBytes);
  swapcontext(&scheduler_, &fibre.context);
  __sanitizer_finish_switch_fiber(scheduler_stack_, nullptr, nullptr);
#else
  if (_setjmp(scheduler_place_) != 0) return;
  if (begins) setcontext(&fibre.context);
  _longjmp(fibre.place, 1);
#endif
}

// Lets fibres go on whose whole warp, or block, has arrived; false if there are none.
bool Block::release() {
  bool any = false;
  const auto all_wait = [&](std::size_t begin, std::size_t end, Waits what) {
    for (std::size_t i = begin; i < end; ++i) {
      if (fibres_[i]->waits != what) return false;
    }
    return true;
  };
  const auto let_go = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) fibres_[i]->waits = Waits::kNothing;
    any = true;
  };
  if (all_wait(0, fibres_.size(), Waits::kBlock)) let_go(0, fibres_.size());
  for (std::size_t w = 0; w < fibres_.size(); w += kWarpThreads) {
    const std::size_t end = std::min(fibres_.size(), w + kWarpThreads);
    if (all_wait(w, end, Waits::kWarp)) let_go(w, end);
  }
  return any;
}

void Block::run(const std::function<void()>& body) {
  body_ = &body;
  Block* outer = std::exchange(current, this);
  for (Fibre* fibre : fibres_) fibre->waits = Waits::kNothing;
  bool stuck = false;
  for (bool left = true; left && !stuck && !error_;) {
    left = false;
    for (unsigned t = 0; t < fibres_.size(); ++t) {
      if (fibres_[t]->waits == Waits::kNothing) resume(t);
      left = left || fibres_[t]->waits != Waits::kEnded;
    }
    stuck = left && !release();
  }
  current = outer;
  if (error_ || stuck) pool.clear();
  if (error_) std::rethrow_exception(error_);
  TH_CHECK(!stuck, "threads of a block wait for others that have ended or wait elsewhere");
}

void Block::wait(Waits what) {
  Fibre& fibre = *fibres_[running_];
  const unsigned thread = running_;
  fibre.waits = what;
  leave(fibre);
  threadIdx.x = thread;
}

double Block::exchange(double value, unsigned mask) {
  const unsigned thread = running_;
  fibres_[thread]->exchanged = value;
  wait(Waits::kWarp);
  const double got = fibres_.at(thread ^ mask)->exchanged;
  wait(Waits::kWarp);  // before anybody exchanges again
  return got;
}

// Lane (group, member) holds of A the pairs at rows group, group + 8 and columns 2 member, 2 member
// + 8; of B (transposed) those at row group; of C those of A's rows and columns 2 member, 2 member
// + 1.
void Block::multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  const unsigned thread = running_, warp = thread / kWarpThreads * kWarpThreads;
  std::copy_n(a, 4, fibres_[thread]->fragments);
  std::copy_n(b, 2, fibres_[thread]->fragments + 4);
  wait(Waits::kWarp);
  const auto value = [&](unsigned row_lane, unsigned part, unsigned k) {
    const std::uint32_t pair = fibres_.at(warp + 4 * row_lane + k % 8 / 2)->fragments[part];
    return std::bit_cast<float>(k % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u);
  };
  const unsigned group = thread % kWarpThreads / 4, member = thread % 4;
  for (unsigned i = 0; i < 4; ++i) {
    for (unsigned k = 0; k < 16; ++k) {
      c[i] += value(group, i / 2 + k / 8 * 2, k) * value(2 * member + i % 2, 4 + k / 8, k);
    }
  }
  wait(Waits::kWarp);  // before anybody multiplies again
}

}  // namespace

void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  current->multiply(c, a, b);
}

std::uint32_t pack_bf16(float low, float high) {
  return static_cast<std::uint32_t>(std::bit_cast<std::uint16_t>(to_bf16(high))) << 16 |
         std::bit_cast<std::uint16_t>(to_bf16(low));
}

float exp2_fast(float x) {
  return std::exp2(x);
}

void block_barrier() {
  current->wait(Waits::kBlock);
}

float shuffle_xor(float value, int mask) {
  return static_cast<float>(
      current->exchange(static_cast<double>(value), static_cast<unsigned>(mask)));
}
double shuffle_xor(double value, int mask) {
  return current->exchange(value, static_cast<unsigned>(mask));
}

void run_grid(unsigned grid, unsigned threads, const std::function<void()>& body) {
  const DeviceAccess access;
  gridDim.x = grid;
  blockDim.x = threads;
  Block block(threads);
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx.x = b;
    block.run(body);
  }
}

void run_grid_flat(unsigned grid, unsigned threads, const std::function<void()>& body) {
  const DeviceAccess access;
  gridDim.x = grid;
  blockDim.x = threads;
  for (unsigned b = 0; b < grid; ++b) {
    blockIdx.x = b;
    for (unsigned t = 0; t < threads; ++t) {
      threadIdx.x = t;
      body();
    }
  }
}

}  // namespace thimble::gpu
