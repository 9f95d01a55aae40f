// An error of one of several processes: it is told with its own words, and ends all of them soon.
#include "tests/launcher/program.h"

namespace thimble {
namespace {

class RankErrorsTest : public testing::Test {
 protected:
  // The exit code of mpirun; 124 where it takes a minute. PROGRAM is the program.
  int mpirun(const std::string& arguments, const std::string& environment = "") {
    const char* const elsewhere = std::getenv("THIMBLE_BINARY");
    const std::string program = elsewhere != nullptr ? elsewhere : THIMBLE_BINARY;
    d_.write("ranks.sh",
             "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 TMPDIR=$PWD\n"
             // Open MPI keeps memory until the process ends.
             "export ASAN_OPTIONS=detect_leaks=0\n"
             "PROGRAM='" +
                 program + "'\nexec timeout 60 mpirun --oversubscribe --bind-to none " + arguments +
                 " > out.txt 2> err.txt\n");
    const int status = std::system(
        ("cd '" + d_.path().string() + "' && " + environment + " bash ranks.sh").c_str());
    EXPECT_FALSE(said("AddressSanitizer") || said("runtime error:")) << d_.err();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool said(const std::string& text) { return d_.err().find(text) != std::string::npos; }

  ProgramDir d_;
};

TEST_F(RankErrorsTest, AreToldAndEndAllRanks) {
  struct Way {
    std::string stage, moment, rank;
  };
  // Every pair of the three.
  for (const Way& way : {Way{"1", "0:phase=load", "0"}, Way{"3", "0:phase=load", "1"},
                         Way{"3", "3:phase=backward", "0"}, Way{"1", "3:phase=backward", "1"},
                         Way{"1", "2:phase=save", "0"}, Way{"3", "2:phase=save", "1"}}) {
    EXPECT_EQ(mpirun("-np 2 $PROGRAM train job.toml --set parallelism.zero_stage=" + way.stage,
                     "THIMBLE_FAULT=fail:rank=" + way.rank + ":step=" + way.moment),
              1)
        << d_.err();
    EXPECT_TRUE(said("error: THIMBLE_FAULT: rank " + way.rank + " fails on purpose\n"))
        << way.moment << d_.err();
    std::filesystem::remove_all(d_.path("runs"));
  }
}

// A rank that is killed beside its commit may be a step ahead of the other, or behind it.
TEST_F(RankErrorsTest, KilledBesideACommitBothGoOnFromACommonStep) {
  struct Way {
    std::string optimizer;
    std::vector<std::string> killed;  // of rank 0 and of rank 1, where; empty: it lives
  };
  for (const Way& way :
       {Way{"adamw", {"offload.record:5", ""}}, Way{"adamw", {"io.write:60", ""}},
        Way{"adamw", {"", "offload.record:5"}}, Way{"galore", {"", "offload.sync:6"}},
        Way{"galore", {"offload.record:6", ""}}}) {
    const std::string job =
        "$PROGRAM train job.toml --set training.matmul=f32 --set offload.state=ssd --set "
        "offload.cache=0B --set "
        "offload.any_file_system=true "
        "--set optimizer.name=" +
        way.optimizer + (way.optimizer == "galore" ? " --set optimizer.rank=8" : "") +
        " --set name=";
    const auto ranks = [&](const std::string& name) { return "-np 2 " + job + name; };
    const auto rank = [&](const std::string& killed) {
      const std::string fault = killed.empty() ? "" : "env THIMBLE_FAILPOINT=" + killed + ":kill ";
      return "-np 1 " + fault + job + "cut";
    };
    const std::string whole = "whole-" + way.optimizer;
    if (!std::filesystem::exists(d_.path("runs/" + whole))) {
      ASSERT_EQ(mpirun(ranks(whole)), 0) << d_.err();
    }
    EXPECT_NE(mpirun(rank(way.killed[0]) + " : " + rank(way.killed[1])), 0) << d_.err();
    ASSERT_EQ(mpirun(ranks("cut")), 0) << d_.err();
    EXPECT_TRUE(said("resuming from the state of step"))
        << way.optimizer << way.killed[0] << way.killed[1] << d_.err();
    EXPECT_EQ(d_.file("runs/cut/model/model.safetensors"),
              d_.file("runs/" + whole + "/model/model.safetensors"));
    EXPECT_FALSE(std::filesystem::exists(d_.path("runs/cut/offload")));
    std::filesystem::remove_all(d_.path("runs/cut"));
  }
}

TEST_F(RankErrorsTest, OfAMeasurementEndAllRanks) {
  EXPECT_EQ(mpirun("-np 1 $PROGRAM bench comm : "
                   "-np 1 env THIMBLE_FAILPOINT=arena.reserve:3:eio $PROGRAM bench comm"),
            1)
      << d_.err();
  EXPECT_TRUE(said("failpoint arena.reserve: Input/output error")) << d_.err();
}

}  // namespace
}  // namespace thimble
