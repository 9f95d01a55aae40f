// What ranks as threads say when one of them is stuck, astray or dead.
#include "parallel/collectives.h"
#include "tests/parallel/rank_team.h"

namespace thimble {
namespace {

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

TEST(LocalWorldTest, AStuckRankIsNamed) {
  const std::string error = error_of([] {
    run_ranks(
        3,
        [](Communicator& comm) {
          if (comm.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(300));
          barrier(comm, "block 12");
        },
        std::chrono::milliseconds(50));
  });
  EXPECT_NE(error.find("all_gather #0 of block 12"), std::string::npos) << error;
  EXPECT_NE(error.find("never entered by rank 2"), std::string::npos) << error;
}

TEST(LocalWorldTest, RanksAtDifferentOperationsAreNamed) {
  const std::string error = error_of([] {
    run_ranks(2,
              [](Communicator& comm) { barrier(comm, comm.rank() == 0 ? "block 1" : "block 2"); });
  });
  EXPECT_NE(error.find("block 1"), std::string::npos) << error;
  EXPECT_NE(error.find("block 2"), std::string::npos) << error;
}

TEST(LocalWorldTest, OtherSizesAreRefused) {
  const std::string error = error_of([] {
    run_ranks(2, [](Communicator& comm) {
      const std::vector<std::byte> mine(comm.rank() == 0 ? 4 : 8);
      static_cast<void>(all_gather_control(comm, "bytes", mine));
    });
  });
  EXPECT_NE(error.find("other sizes"), std::string::npos) << error;
}

// Nobody may take data that never came for what was sent.
TEST(LocalWorldTest, WhatIsUnderWayFailsWithTheFirst) {
  LocalWorld world(2, std::chrono::milliseconds(50));
  const auto comm = world.communicator(0);
  Completion first = comm->start({"exchange", "first"}, Purpose::kControl, Exchange(2));
  Completion second = comm->start({"exchange", "second"}, Purpose::kControl, Exchange(2));
  EXPECT_FALSE(second.done());
  const std::string error = error_of([&] { first.wait(); });
  EXPECT_NE(error.find("#0 of first: never entered by rank 1"), std::string::npos) << error;
  EXPECT_TRUE(second.done());
  EXPECT_EQ(error_of([&] { second.wait(); }), error);
  EXPECT_EQ(error_of([&] { second.wait(); }), "");
}

TEST(LocalWorldTest, ADeadRankEndsTheOthers) {
  const std::string error = error_of([] {
    run_ranks(4, [](Communicator& comm) {
      if (comm.rank() == 1) throw std::runtime_error("no more memory");
      for (int i = 0; i < 3; ++i) barrier(comm, "step");
    });
  });
  EXPECT_NE(error.find("no more memory"), std::string::npos) << error;
}

}  // namespace
}  // namespace thimble
