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
  for (const std::string stage : {"1", "3"}) {
    for (const std::string moment : {"0:phase=load", "3:phase=backward", "2:phase=save"}) {
      for (const std::string rank : {"0", "1"}) {
        EXPECT_EQ(mpirun("-np 2 $PROGRAM train job.toml --set parallelism.zero_stage=" + stage,
                         "THIMBLE_FAULT=fail:rank=" + rank + ":step=" + moment),
                  1)
            << d_.err();
        EXPECT_TRUE(said("error: THIMBLE_FAULT: rank " + rank + " fails on purpose\n"))
            << moment << d_.err();
        std::filesystem::remove_all(d_.path("runs"));
      }
    }
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
