// Ranks of a test that are threads.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/error.h"

namespace thimble::testing {

/// Ranks that are threads give each other numbers; when one fails, all do.
class Meeting {
 public:
  explicit Meeting(int ranks) : numbers_(static_cast<std::size_t>(ranks)) {}

  std::vector<std::int64_t> gather(int rank, std::int64_t mine) {
    std::unique_lock lock(mutex_);
    numbers_[static_cast<std::size_t>(rank)] = mine;
    const std::int64_t round = round_;
    if (++there_ == numbers_.size()) {
      there_ = 0;
      ++round_;
      gathered_ = numbers_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ != round || failed_; });
    if (failed_) throw SystemError("another rank has failed");
    return gathered_;
  }
  void fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::int64_t> numbers_, gathered_;
  std::size_t there_ = 0;
  std::int64_t round_ = 0;
  bool failed_ = false;
};

inline void run_ranks(int ranks, Meeting& meeting, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
        meeting.fail();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace thimble::testing
