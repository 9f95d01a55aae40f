// Ranks as threads of one process: each rank copies what the others have laid out for it. For
// --simulate and tests.
#pragma once

#include <chrono>
#include <memory>

#include "parallel/communicator.h"

namespace thimble {

class LocalWorld {
 public:
  /// An operation that a rank has not joined after `time_limit` fails on the ranks that wait for
  /// it, and names it.
  explicit LocalWorld(int ranks, std::chrono::milliseconds time_limit = std::chrono::minutes(10));
  ~LocalWorld();
  LocalWorld(const LocalWorld&) = delete;
  LocalWorld& operator=(const LocalWorld&) = delete;

  /// One per rank, used by one thread at a time; must not outlive the world.
  std::unique_ptr<Communicator> communicator(int rank);

 private:
  struct Board;
  class Member;
  std::shared_ptr<Board> board_;
};

}  // namespace thimble
