// The small parts of launching: what a fault, a hostfile and the environment say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>

#include "core/base/error.h"
#include "launcher/launch/fault.h"
#include "launcher/launch/nodes.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/launch/supervisor.h"
#include "launcher/run/allocation.h"
#include "launcher/run/machine.h"
#include "launcher/run/rank_environment.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

using testing::HasSubstr;

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

Variables variables(std::map<std::string, std::string> all) {
  return [all = std::move(all)](const char* name) -> std::optional<std::string> {
    const auto found = all.find(name);
    return found == all.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(SupervisorTest, ARestartContinuesWhatTheFirstStartBegan) {
  const std::vector<std::string> plain{"thimble", "train", "job.toml", "--set", "seed=1"};
  EXPECT_EQ(continuing_command(plain), plain);
  for (const std::vector<std::string>& once : {std::vector<std::string>{"--fresh"},
                                               {"--resume", "never"},
                                               {"--resume=never"},
                                               {"--resume-from", "7"},
                                               {"--resume-from=7"},
                                               {"--fresh", "--resume-from", "7"}}) {
    std::vector<std::string> command = plain;
    command.insert(command.begin() + 2, once.begin(), once.end());
    EXPECT_EQ(continuing_command(command), plain);
    command = plain;
    command.insert(command.end(), once.begin(), once.end());
    EXPECT_EQ(continuing_command(command), plain);
  }
  const std::vector<std::string> must{"thimble", "train", "--resume", "must", "job.toml"};
  EXPECT_EQ(continuing_command(must), must);
  EXPECT_EQ(continuing_command({"thimble", "train", "--resume-from"}),
            (std::vector<std::string>{"thimble", "train"}));
}

TEST(FaultTest, ReadsAllParts) {
  const Fault f = parse_fault("delay:rank=3:step=7:phase=reduce:seconds=0.5:every");
  EXPECT_EQ(f.action, Fault::Action::kDelay);
  EXPECT_EQ(f.rank, 3);
  EXPECT_EQ(f.step, 7);
  EXPECT_EQ(f.phase, "reduce");
  EXPECT_EQ(f.seconds, 0.5);
  EXPECT_TRUE(f.every);
  EXPECT_EQ(parse_fault("kill:rank=1:op=183").op, 183);
}

TEST(FaultTest, StrikesAtItsMomentOnly) {
  const OpLabel reduce_scatter{"reduce_scatter", "x"}, all_gather{"all_gather", "x"};
  const auto event = [](std::int64_t number, const OpLabel& label,
                        OpChannel channel = OpChannel::kProcesses) {
    return OpEvent{.channel = channel, .number = number, .label = label};
  };
  const Fault f = parse_fault("kill:rank=1:step=2:phase=reduce");
  f.at_phase(1, 2, "forward");
  f.at_operation(0, 2, event(5, reduce_scatter));
  f.at_operation(1, 1, event(5, reduce_scatter));
  f.at_operation(1, 2, event(5, all_gather));
  EXPECT_EXIT(f.at_operation(1, 2, event(5, reduce_scatter)), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(f.at_operation(1, 2, event(5, reduce_scatter, OpChannel::kGpus)),
              testing::KilledBySignal(SIGKILL), "");
  const Fault op = parse_fault("kill:rank=1:op=9");
  op.at_operation(1, 1, event(9, all_gather, OpChannel::kGpus));  // counted apart
  op.at_phase(1, 1, "forward");
  op.at_operation(1, 1, event(8, reduce_scatter));
  EXPECT_EXIT(op.at_operation(1, 5, event(9, all_gather)), testing::KilledBySignal(SIGKILL), "");
}

TEST(FaultTest, Mistakes) {
  EXPECT_THAT(error_of([] { parse_fault("boom"); }), HasSubstr("allowed kill, stop, delay, fail"));
  EXPECT_THAT(error_of([] { parse_fault("kill:rank=x"); }), HasSubstr("a number is needed"));
  EXPECT_THAT(error_of([] { parse_fault("kill:rank=-1"); }), HasSubstr("a number is needed"));
  EXPECT_THAT(error_of([] { parse_fault("kill:step=nan"); }), HasSubstr("a number is needed"));
  EXPECT_THAT(error_of([] { parse_fault("kill:phase=lunch"); }), HasSubstr("allowed prepare"));
  EXPECT_THAT(error_of([] { parse_fault("kill:when=now"); }), HasSubstr("allowed rank="));
}

class NodesTest : public testing::Test {
 protected:
  std::vector<NodeSlots> nodes_of(const std::string& text) {
    std::ofstream(file_) << text;
    return read_hostfile(file_);
  }
  TempDir dir_{"thimble-hosts"};
  std::filesystem::path file_ = dir_.path() / "hosts";
};

TEST_F(NodesTest, ReadsNamesAndSlots) {
  const auto nodes =
      nodes_of("# a cluster\n\nnode-1 slots=4\n  node-2\nnode-3 slots=2 # slow\nnode-2\n");
  EXPECT_EQ(nodes, (std::vector<NodeSlots>{{"node-1", 4}, {"node-2", 2}, {"node-3", 2}}));
  EXPECT_EQ(total_slots(nodes), 8);
  EXPECT_EQ(nodes_of(hostfile_text(nodes)), nodes);
}

TEST_F(NodesTest, Mistakes) {
  for (const char* text : {"n slots=0", "n slots=-1", "n slots=2x", "n slots=", "n max_slots=3",
                           "n slots=99999999999", "-oProxyCommand=x"}) {
    EXPECT_THAT(error_of([&] { nodes_of(std::string("ok\n") + text); }), HasSubstr("hosts:2: '"))
        << text;
  }
  EXPECT_THAT(error_of([&] { nodes_of("# nothing\n"); }), HasSubstr("names no node"));
  EXPECT_THROW(read_hostfile(dir_.path() / "absent"), std::exception);
}

TEST_F(NodesTest, AsksEveryNode) {
  const std::filesystem::path agent = dir_.path() / "agent";
  std::ofstream(agent)
      << "#!/bin/sh\ncase $1 in gone) echo first >&2; echo no route >&2; exit 255;; "
         "slow) sleep 60;; esac\n";
  std::filesystem::permissions(agent, std::filesystem::perms::owner_all);
  ::setenv("OMPI_MCA_plm_rsh_agent", agent.c_str(), 1);
  const std::vector<NodeSlots> nodes{{"localhost", 1}, {"there", 1},     {"gone", 1},
                                     {"slow", 1},      {host_name(), 1}, {"127.0.0.1", 1}};
  EXPECT_THAT(node_complaints(nodes, 1),
              testing::ElementsAre("", "", "no route", "no answer within 1 s", "", ""));
  ::setenv("OMPI_MCA_plm_rsh_agent", "/nowhere/ssh", 1);
  EXPECT_THAT(node_complaints(std::vector<NodeSlots>{{"there", 1}})[0],
              HasSubstr("is not on PATH"));
  ::unsetenv("OMPI_MCA_plm_rsh_agent");
}

TEST(ElasticTest, MinAndMax) {
  EXPECT_EQ(parse_elastic("2:8").least, 2);
  EXPECT_EQ(parse_elastic("2:8").most, 8);
  for (const char* bad :
       {"", "2", ":", "2:", ":8", "8:2", "0:2", "-1:2", "2:8x", "2-8", "2:99999999999"})
    EXPECT_THAT(error_of([&] { parse_elastic(bad); }), HasSubstr("allowed MIN:MAX")) << bad;
}

TEST(RankEnvironmentTest, OneSourceOrTwoThatAgree) {
  EXPECT_FALSE(rank_environment(variables({})));
  const std::map<std::string, std::string> ompi{{"OMPI_COMM_WORLD_RANK", "2"},
                                                {"OMPI_COMM_WORLD_SIZE", "4"},
                                                {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                                                {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  const auto found = rank_environment(variables(ompi));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 2);
  EXPECT_EQ(found->ranks, 4);
  EXPECT_EQ(found->local_ranks, 2);
  auto two = ompi;
  two.insert({{"PMI_RANK", "2"}, {"PMI_SIZE", "8"}});
  EXPECT_EQ(error_of([&] { rank_environment(variables(two)); }),
            "the number of ranks is 4 by Open MPI but 8 by PMI");
  auto bad = ompi;
  bad["OMPI_COMM_WORLD_RANK"] = "4";
  EXPECT_THAT(error_of([&] { rank_environment(variables(bad)); }), HasSubstr("RANK=4"));
  bad["OMPI_COMM_WORLD_RANK"] = "two";
  EXPECT_THAT(error_of([&] { rank_environment(variables(bad)); }), HasSubstr("'two'"));
  EXPECT_THAT(error_of([] {
                rank_environment(variables({{"SLURM_STEP_NUM_TASKS", "4"}}));
              }),
              HasSubstr("--mpi=pmix"));
}

TEST(AllocationTest, SlurmAndPbs) {
  EXPECT_FALSE(allocation(variables({})));
  const auto slurm = allocation(variables({{"SLURM_JOB_ID", "17"},
                                           {"SLURM_JOB_NODELIST", "node[1-4]"},
                                           {"SLURM_JOB_END_TIME", "1767268800"}}));
  ASSERT_TRUE(slurm);
  EXPECT_EQ(slurm->text(), "SLURM job 17 on node[1-4], until 2026-01-01 12:00:00 UTC");
  for (const char* odd : {"", "soon", "-5", "99999999999999999"}) {
    EXPECT_FALSE(allocation(variables({{"SLURM_JOB_ID", "1"}, {"SLURM_JOB_END_TIME", odd}}))->end_s)
        << odd;
  }
  const TempDir dir("thimble-pbs");
  std::ofstream(dir.path() / "nodes") << "a\na\nb\n";
  const auto pbs = allocation(
      variables({{"PBS_JOBID", "5.server"}, {"PBS_NODEFILE", (dir.path() / "nodes").string()}}));
  ASSERT_TRUE(pbs);
  EXPECT_EQ(pbs->text(), "PBS job 5.server on a, b");
}

TEST(RankMonitorTest, ARecordForPeopleThatCannotBeKeptEndsNothing) {
  const TempDir logs("monitor");
  std::filesystem::create_directories(flight_file(logs.path(), 0));
  RankMonitor monitor(0, 2);
  monitor.record_in(logs.path());
  monitor.phase("forward");
  monitor.step(1);
  RankMonitor other(1, 2);
  other.record_in(logs.path());
  other.step(3);
  EXPECT_EQ(read_flight_records(logs.path()).size(), 1u);
}

}  // namespace
}  // namespace thimble
