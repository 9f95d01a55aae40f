#include "core/base/threads.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

namespace thimble {
namespace {

using Word = std::atomic<std::uint32_t>;

// std::atomic's own wait yields the core many times first, after which the scheduler lets a busy
// neighbour go first.
void sleep_while(const Word& word, std::uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake_all(const Word& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Looks at a word before sleeping on it, each with a pause of 40 to 140 cycles: about as long as
// waking takes.
constexpr int kSpins = 1000;

// The chunks of a short loop take some 10 us each. A thread that its caller has to wait for much
// longer has lost its core and will not have it back for about a time slice of the scheduler: the
// next short loops run on their own thread; the more loops, the more often that happens.
constexpr std::int64_t kShortLoop = std::int64_t{1} << 20;  // values
constexpr std::chrono::microseconds kLate{200};
constexpr int kLeastAlone = 64, kMostAlone = 4096;  // loops

class Patience {
 public:
  bool works_alone() { return alone_ > 0 && alone_-- > 0; }
  void note(bool late) {
    next_ = late ? std::min(next_ * 2, kMostAlone) : kLeastAlone / 2;
    if (late) alone_ = next_;
  }

 private:
  int alone_ = 0, next_ = kLeastAlone / 2;
};

thread_local Patience patience;
thread_local int threads_of_caller = 0;  // 0: not set
thread_local int own_index = 0;
thread_local bool in_loop = false;

// A loop over `items`, cut into chunks.
struct Work {
  std::int64_t items = 0, chunk = 0;
  detail::LoopBody body = nullptr;
  void* context = nullptr;
};

// One loop being run. Its caller fills it in, opens it by `state` and takes it back when `done` has
// counted every chunk.
struct alignas(64) Loop {
  // threads << 32 | chunks that nobody has taken. A successful exchange of it takes a chunk of
  // whatever loop is open then, so a late thread cannot take one of a loop that has ended.
  std::atomic<std::uint64_t> state{0};
  alignas(64) Word done{0};
  std::atomic<bool> asleep{false};  // the caller
  std::atomic<bool> used{false};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  Work work;
  std::uint32_t chunks = 0;

  // Takes chunks and runs them until there are none; returns whether there was one.
  bool take_chunks(int index) {
    bool worked = false;
    std::uint64_t seen = state.load(std::memory_order_acquire);
    while ((seen & UINT32_MAX) != 0 && static_cast<std::uint64_t>(index) < seen >> 32) {
      if (!state.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        continue;
      }
      run(chunks - static_cast<std::uint32_t>(seen & UINT32_MAX));
      worked = true;
      seen = state.load(std::memory_order_acquire);
    }
    return worked;
  }

  void run(std::uint32_t number) {
    const std::int64_t begin = number * work.chunk;
    if (!failed.load(std::memory_order_relaxed)) {
      try {
        work.body(work.context, begin, std::min(work.items, begin + work.chunk));
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
    const std::uint32_t all = chunks;  // not to be read after the caller may have gone on
    if (done.fetch_add(1) + 1 == all && asleep.load()) wake_all(done);
  }

  // Waits for every chunk; returns how long the caller has slept.
  std::chrono::nanoseconds wait() {
    std::optional<std::chrono::steady_clock::time_point> slept;
    for (int spins = 0;;) {
      const std::uint32_t now = done.load();
      if (now == chunks) break;
      if (++spins < kSpins) {
        pause();
      } else if (!asleep.exchange(true)) {
        continue;  // to look once more, now that the last chunk's thread will wake us
      } else {
        if (!slept) slept = std::chrono::steady_clock::now();
        sleep_while(done, now);
      }
    }
    asleep = false;
    return slept ? std::chrono::steady_clock::now() - *slept : std::chrono::nanoseconds(0);
  }
};

// The threads and the loops that are open for them: one per caller, so that a loop of a background
// thread does not shut out the main thread's. With all in use a caller works alone.
class Workers {
 public:
  void run(const Work& work, int threads, bool is_short) {
    if (is_short && patience.works_alone()) return work.body(work.context, 0, work.items);
    Loop* loop = take();
    if (loop == nullptr) return work.body(work.context, 0, work.items);
    ensure(threads - 1);
    loop->work = work;
    loop->chunks = static_cast<std::uint32_t>((work.items + work.chunk - 1) / work.chunk);
    loop->failed = false;
    loop->error = nullptr;
    loop->done.store(0, std::memory_order_relaxed);
    loop->state.store(static_cast<std::uint64_t>(threads) << 32 | loop->chunks,
                      std::memory_order_release);
    opened_.fetch_add(1);
    if (sleepers_.load() > 0) wake_all(opened_);
    loop->take_chunks(0);
    const std::chrono::nanoseconds slept = loop->wait();
    if (is_short) patience.note(slept > kLate);
    const std::exception_ptr error = loop->error;
    loop->error = nullptr;
    loop->used.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

 private:
  Loop* take() {
    for (Loop& loop : loops_) {
      if (!loop.used.exchange(true, std::memory_order_acquire)) return &loop;
    }
    return nullptr;
  }

  void ensure(int count) {
    if (count_.load(std::memory_order_acquire) >= count) return;
    const std::lock_guard lock(mutex_);
    for (int i = count_.load(); i < count; ++i) {
      try {
        std::thread([this, i] { serve(i + 1); }).detach();
      } catch (const std::system_error&) {
        return;  // the limit of threads is reached: those there are do the work
      }
      count_.store(i + 1, std::memory_order_release);
    }
  }

  void serve(int index) {
    own_index = index;
    in_loop = true;
    for (;;) {
      const std::uint32_t seen = opened_.load();
      bool worked = false;
      for (Loop& loop : loops_) worked |= loop.take_chunks(index);
      for (int i = 0; !worked && i < kSpins && opened_.load(std::memory_order_relaxed) == seen; ++i)
        pause();
      if (worked || opened_.load() != seen) continue;
      sleepers_.fetch_add(1);
      if (opened_.load() == seen) sleep_while(opened_, seen);
      sleepers_.fetch_sub(1);
    }
  }

  std::array<Loop, 4> loops_;
  alignas(64) Word opened_{0};  // counts loops that were opened: what sleeping threads watch
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<int> count_{0};
  std::mutex mutex_;
};

// Never destroyed: its threads run until the process ends.
Workers& workers() {
  static auto* const kWorkers = new Workers;
  return *kWorkers;
}

int default_threads() {
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    const int count = std::atoi(text);
    if (count > 0) return count;
  }
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0) return std::max(1, CPU_COUNT(&cpus));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

int team_threads() {
  if (in_loop) return 1;
  static const int kDefault = default_threads();
  return threads_of_caller > 0 ? threads_of_caller : kDefault;
}

void set_team_threads(int count) {
  threads_of_caller = count;
}

int team_index() {
  return own_index;
}

namespace detail {

void run_chunks(std::int64_t items, std::int64_t cost, std::int64_t chunk, LoopBody body,
                void* context) {
  chunk = std::max(chunk, items / INT32_MAX + 1);
  const int threads = team_threads();
  if (threads == 1) {
    body(context, 0, items);
    return;
  }
  struct InLoop {
    InLoop() { in_loop = true; }
    ~InLoop() { in_loop = false; }
  } const inside;
  workers().run({items, chunk, body, context}, threads, items <= kShortLoop / cost);
}

}  // namespace detail
}  // namespace thimble
