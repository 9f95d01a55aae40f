// Flight records: what a dead process leaves, read whole, torn or forged.
#include "parallel/flight_recorder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <thread>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/io/file.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

class FlightRecorderTest : public testing::Test {
 protected:
  FlightRecord record_of(int rank) const {
    return read_flight_record(flight_file(dir_.path(), rank));
  }
  TempDir dir_{"thimble-flight"};
};

TEST_F(FlightRecorderTest, SurvivesAKill) {
  const pid_t child = ::fork();
  if (child == 0) {
    FlightRecorder recorder(flight_file(dir_.path(), 3), {3, 4, "node-c", true});
    recorder.set_step(12);
    recorder.set_phase("backward");
    const OpLabel gather{"all_gather", "block 11"}, reduce{"reduce_scatter", "model.norm.weight"};
    recorder.op_event({OpChannel::kGpus, 181, reduce, 64});  // of another channel, ended before
    recorder.op_event({OpChannel::kGpus, 181, reduce, 64, true});
    recorder.op_event({OpChannel::kProcesses, 181, gather, 4096});
    recorder.op_event({OpChannel::kProcesses, 181, gather, 4096, true});
    recorder.op_event({OpChannel::kProcesses, 183, reduce, 64});
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const FlightRecord r = record_of(3);
  EXPECT_EQ(r.rank, 3);
  EXPECT_EQ(r.ranks, 4);
  EXPECT_EQ(r.host, "node-c");
  EXPECT_EQ(r.pid, child);
  ASSERT_EQ(r.ops.size(), 3u);
  EXPECT_EQ(r.ops[0].bytes, 4096);
  EXPECT_GT(r.ops[0].end_ns, 0);
  EXPECT_EQ(r.text(), "step 12, backward, in reduce_scatter #183 of model.norm.weight");
}

TEST_F(FlightRecorderTest, KeepsTheLastOperationsAndBeats) {
  FlightRecorder recorder(flight_file(dir_.path(), 0), {0, 2, std::string(300, 'h')});
  const OpLabel label{"a name that is longer than its place", std::string(200, 's')};
  for (std::int64_t n = 0; n < 3000; ++n) {
    recorder.op_event({OpChannel::kProcesses, n, label, n});
    recorder.op_event({OpChannel::kProcesses, n, label, n, true});
  }
  const FlightRecord first = record_of(0);
  ASSERT_EQ(first.ops.size(), 1024u);
  EXPECT_EQ(first.ops.front().number, 3000 - 1024);
  EXPECT_EQ(first.ops.back().number, 2999);
  EXPECT_LT(first.host.size(), 64u);
  for (int i = 0; i < 50 && record_of(0).heartbeat_ns == first.heartbeat_ns; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_GT(record_of(0).heartbeat_ns, first.heartbeat_ns);
}

TEST_F(FlightRecorderTest, NamesWhoFellBehind) {
  FlightRecord a{.rank = 0, .ranks = 3}, b{.rank = 1, .ranks = 3}, c{.rank = 2, .ranks = 3};
  constexpr OpChannel kProcesses = OpChannel::kProcesses, kGpus = OpChannel::kGpus;
  a.ops = {{kProcesses, 7, "all_gather", "block 3", 1, 1, 2},
           {kProcesses, 8, "all_gather", "block 4", 1, 1, 0}};
  b.ops = {{kProcesses, 7, "all_gather", "block 3", 1, 1, 2},
           {kGpus, 9, "all_gather", "block 9", 1, 1, 2}};
  c.ops = a.ops;
  EXPECT_EQ(first_divergence({a, b, c}),
            "rank 1 never entered all_gather #8 of block 4; rank 0, 2 waits in it");
  a.ops = {{kGpus, 3, "reduce_scatter", "block 5", 1, 1, 0}};
  b.ops = {{kProcesses, 70, "all_gather", "loss", 1, 1, 2}, {kGpus, 2, "x", "y", 1, 1, 2}};
  EXPECT_EQ(first_divergence({a, b}),
            "rank 1 never entered reduce_scatter #3 of block 5; rank 0 waits in it");
  EXPECT_NE(first_divergence({b}).find("rank 1: step 0"), std::string::npos);
  EXPECT_EQ(first_divergence({}), "");
}

TEST_F(FlightRecorderTest, ForeignAndTornFilesAreRefusedOrReadSafely) {
  const auto path = flight_file(dir_.path(), 0);
  { FlightRecorder recorder(path, {0, 1, "h"}); }
  const std::string good = read_text_file(path, 1 << 20);
  const auto write = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  };
  for (const std::string& bad : {std::string(), std::string("thflight"), good.substr(0, 100),
                                 good.substr(1) + "x", good + "x"}) {
    write(bad);
    EXPECT_THROW(static_cast<void>(read_flight_record(path)), UserError) << bad.size();
  }
  // Any bytes behind the mark are read as they are: no text runs over its place.
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::string bytes = good;
    for (std::size_t i = 8; i < bytes.size(); ++i)
      bytes[i] = static_cast<char>(mix64(seed, static_cast<std::uint64_t>(i)));
    write(bytes);
    const FlightRecord r = read_flight_record(path);
    EXPECT_LE(r.ops.size(), 2048u);
    static_cast<void>(r.text() + first_divergence({r, r}));
  }
  std::ofstream(dir_.path() / "flight-9.bin") << "torn";
  std::ofstream(dir_.path() / "hosts") << "node-a";
  EXPECT_EQ(read_flight_records(dir_.path()).size(), 1u);
}

}  // namespace
}  // namespace thimble
