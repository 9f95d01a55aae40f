// Runs a body once per rank: as threads of this process, or, in a program started by mpirun, as
// this process's rank.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "parallel/local_world.h"

namespace thimble {

using RankBody = std::function<void(Communicator&)>;

/// In a program started by mpirun: the communicator of its ranks, set by main().
inline Communicator* process_world = nullptr;

/// All ranks have returned when this does. An exception of one aborts the others and is rethrown.
inline void run_ranks(int ranks, const RankBody& body,
                      std::chrono::milliseconds time_limit = std::chrono::seconds(60)) {
  if (process_world != nullptr) {
    ASSERT_EQ(process_world->size(), ranks) << "filter the tests for this number of ranks";
    return body(*process_world);
  }
  LocalWorld world(ranks, time_limit);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      set_team_threads(1);
      const auto comm = world.communicator(r);
      try {
        body(*comm);
      } catch (const std::exception& e) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
        comm->abort(fmt::format("rank {}: {}", r, e.what()));
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace thimble
