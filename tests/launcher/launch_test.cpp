// `thimble launch` against killed, stopped and mistaken ranks: the job ends with the bits of an
// undisturbed run, and no process is left behind.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <thread>

#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Processes that run this binary in this directory (as their working directory).
int running_in(const fs::path& directory) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::error_code error;
    const fs::path cwd = fs::read_symlink(entry.path() / "cwd", error);
    const fs::path program = error ? fs::path() : fs::read_symlink(entry.path() / "exe", error);
    if (!error && cwd == directory && program == fs::path(THIMBLE_BINARY)) ++count;
  }
  return count;
}

class LaunchTest : public testing::Test {
 protected:
  // The weights of an undisturbed run on two ranks.
  static void SetUpTestSuite() {
    shared_ = new ProgramDir;
    ASSERT_EQ(shared_->run("launch -n 2 -- train job.toml --set output_dir=plain"), 0)
        << shared_->err();
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  void expect_same_as_plain(const std::string& output) {
    EXPECT_EQ(shared_->file(output + "/job/model/model.safetensors"),
              shared_->file("plain/job/model/model.safetensors"));
    EXPECT_EQ(running_in(shared_->path("")), 0);
  }
  static bool said(const std::string& part) {
    return shared_->err().find(part) != std::string::npos;
  }

  static ProgramDir* shared_;
};
ProgramDir* LaunchTest::shared_ = nullptr;

TEST_F(LaunchTest, AKilledRankIsNamedAndTheJobEndsWithTheSameBits) {
  int number = 0;
  for (const char* fault :
       {"rank=0:step=0:phase=load", "rank=1:step=1:phase=forward", "rank=1:step=4:phase=backward",
        "rank=1:step=2:phase=reduce", "rank=0:op=30", "rank=0:step=4:phase=norm",
        "rank=1:step=5:phase=update", "rank=0:step=4:phase=save"}) {
    const std::string output = "killed-" + std::to_string(number++);
    EXPECT_EQ(shared_->run("launch -n 2 -- train job.toml --set output_dir=" + output,
                           std::string("THIMBLE_FAULT=kill:") + fault),
              0)
        << fault << shared_->err();
    EXPECT_TRUE(said("was killed by signal 9")) << fault << shared_->err();
    EXPECT_TRUE(said("restart 1 of 3")) << fault;
    expect_same_as_plain(output);
  }
}

// A restart goes on with the run that --fresh began instead of beginning another.
TEST_F(LaunchTest, ARestartOfAFreshRunContinuesIt) {
  const std::string job = "launch -n 2 -- train job.toml --set output_dir=fresh";
  ASSERT_EQ(shared_->run(job + " --set training.max_steps=2"), 0) << shared_->err();
  EXPECT_EQ(shared_->run(job + " --fresh", "THIMBLE_FAULT=kill:rank=1:step=4:phase=backward"), 0)
      << shared_->err();
  EXPECT_TRUE(said("resuming from")) << shared_->err();
  EXPECT_TRUE(fs::exists(shared_->path("fresh/job.old-1")));
  EXPECT_FALSE(fs::exists(shared_->path("fresh/job.old-2")));
  expect_same_as_plain("fresh");
}

TEST_F(LaunchTest, AStoppedRankIsDetectedNamedAndReplaced) {
  EXPECT_EQ(
      shared_->run("launch -n 2 --heartbeat-timeout 2 -- train job.toml --set output_dir=stopped",
                   "THIMBLE_FAULT=stop:rank=1:step=3:phase=backward"),
      0)
      << shared_->err();
  EXPECT_TRUE(said("has shown no sign of life")) << shared_->err();
  expect_same_as_plain("stopped");
}

// Two hosts, of which the second no longer answers once its rank has died. An agent instead of ssh
// runs what it is given here.
TEST_F(LaunchTest, GoesOnWithTheNodesThatAreLeft) {
  shared_->write(
      "agent",
      "#!/bin/bash\n"
      "host=$1; shift\n"
      "if [ $host = node-b ]; then\n"
      "  echo x >> calls\n"
      "  [ $(wc -l < calls) -gt 2 ] && { echo 'node-b: No route to host' >&2; exit 255; }\n"
      "fi\n"
      // Hosts share no temporary folder, where the daemons of Open MPI would trip over each other.
      "export TMPDIR=$TMPDIR/$host\n"
      "mkdir -p $TMPDIR\n"
      "exec sh -c \"$*\"\n");
  fs::permissions(shared_->path("agent"), fs::perms::owner_all);
  shared_->write("hosts", "node-a slots=1\nnode-b slots=1\n");
  const std::string agent = "OMPI_MCA_plm_rsh_agent=" + shared_->path("agent").string();
  const std::string job = "--hostfile hosts -- train job.toml --set output_dir=elastic";
  EXPECT_EQ(shared_->run("launch --elastic 1:2 " + job,
                         agent + " THIMBLE_FAULT=kill:rank=1:step=4:phase=backward"),
            0)
      << shared_->err();
  EXPECT_TRUE(said("going on with 1 ranks without node-b (node-b: No route to host)"))
      << shared_->err();
  EXPECT_TRUE(said("8 sequences = 4 per micro-batch x 2 ranks x 1 gradient accumulation step"))
      << shared_->err();
  EXPECT_TRUE(said("8 sequences = 4 per micro-batch x 2 gradient accumulation steps"))
      << shared_->err();
  EXPECT_TRUE(fs::exists(shared_->path("elastic/job/checkpoints/ckpt-6")));
  EXPECT_EQ(shared_->run("launch --elastic 2:2 " + job, agent), 2);
  EXPECT_TRUE(said("1 slots are left, 2 ranks are needed; no answer from node-b"))
      << shared_->err();
  EXPECT_EQ(shared_->run("launch -n 2 " + job, agent), 2);
  EXPECT_EQ(shared_->run("launch --elastic 1:2 -- train job.toml"), 2);
  EXPECT_TRUE(said("--elastic needs --hostfile")) << shared_->err();
  EXPECT_EQ(shared_->run("launch --elastic 3:2 " + job), 2);
  EXPECT_TRUE(said("--elastic '3:2': allowed MIN:MAX")) << shared_->err();
  EXPECT_EQ(running_in(shared_->path("")), 0);
}

TEST_F(LaunchTest, PlainMpirunLeavesRecords) {
  const std::string command =
      "cd '" + shared_->path("").string() +
      "' && OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "THIMBLE_FAULT=kill:rank=1:step=3:phase=reduce mpirun --oversubscribe --bind-to none -np 2 " +
      THIMBLE_BINARY + " train job.toml --set output_dir=plain-mpi > out.txt 2> err.txt";
  EXPECT_NE(std::system(command.c_str()), 0);
  EXPECT_EQ(shared_->run("inspect ranks plain-mpi/job"), 0) << shared_->err();
  EXPECT_NE(shared_->out().find("rank 1 on "), std::string::npos) << shared_->out();
  EXPECT_NE(shared_->out().find("step 3, backward"), std::string::npos) << shared_->out();
  EXPECT_EQ(shared_->run("inspect ranks plain/job"), 2);
}

TEST_F(LaunchTest, GivesUpWhenNothingAdvances) {
  EXPECT_EQ(shared_->run("launch -n 2 --max-restarts 1 -- train job.toml --set output_dir=hopeless",
                         "THIMBLE_FAULT=kill:rank=1:step=1:phase=forward:every"),
            128 + 9)
      << shared_->err();
  EXPECT_TRUE(said("restarts are used up")) << shared_->err();
  EXPECT_EQ(running_in(shared_->path("")), 0);
}

TEST_F(LaunchTest, AMistakeIsNotRestarted) {
  EXPECT_EQ(shared_->run("launch -n 2 -- train nothing.toml"), 2);
  EXPECT_TRUE(said("nothing.toml")) << shared_->err();
  EXPECT_FALSE(said("restart")) << shared_->err();
  shared_->write("hosts", "localhost slots=1\n");
  EXPECT_EQ(shared_->run("launch -n 2 --hostfile hosts -- train job.toml"), 2);
  EXPECT_TRUE(said("1 slots, 2 ranks are asked for")) << shared_->err();
  shared_->write("hosts", "no-such-host.invalid slots=2\n");
  EXPECT_EQ(shared_->run("launch -n 2 --hostfile hosts -- train job.toml"), 2);
  EXPECT_TRUE(said("no-such-host.invalid")) << shared_->err();
  EXPECT_EQ(shared_->run("launch -n 2 -- eval --text text.txt"), 2);
  EXPECT_EQ(shared_->run("launch -n 2 -- train job.toml", "PATH=/nowhere"), 2);
  EXPECT_TRUE(said("mpirun")) << shared_->err();
}

// Starts a launch in the background and waits until its first step is logged.
class BackgroundLaunch {
 public:
  BackgroundLaunch(ProgramDir& dir, const std::string& output) {
    child_ = ::fork();
    if (child_ == 0) {
      const std::string set = "output_dir=" + output;
      const bool ready = ::chdir(dir.path("").c_str()) == 0 &&
                         std::freopen("err.txt", "w", stderr) != nullptr &&
                         std::freopen("out.txt", "w", stdout) != nullptr;
      if (ready) {
        ::execl(THIMBLE_BINARY, THIMBLE_BINARY, "launch", "-n", "2", "--", "train", "job.toml",
                "--set", set.c_str(), "--set", "training.max_steps=100000", "--set",
                "checkpoint.save_steps=50000", nullptr);
      }
      ::_exit(99);
    }
    for (int i = 0; i < 400; ++i) {
      std::ifstream metrics(dir.path(output + "/job/metrics.jsonl"));
      const std::string text((std::istreambuf_iterator<char>(metrics)), {});
      if (text.find("\"step\":3,") != std::string::npos) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ADD_FAILURE() << "no step within 20 s: " << dir.err();
  }
  void send(int signal) const { ::kill(child_, signal); }
  int exit_code() const {
    int status = 0;
    ::waitpid(child_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t child_ = -1;
};

TEST_F(LaunchTest, ASignalSavesAndStops) {
  const BackgroundLaunch background(*shared_, "signalled");
  background.send(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  background.send(SIGTERM);  // the same request, told twice
  EXPECT_EQ(background.exit_code(), 75) << shared_->err();
  EXPECT_FALSE(fs::is_empty(shared_->path("signalled/job/checkpoints")));
  EXPECT_EQ(running_in(shared_->path("")), 0);
}

TEST_F(LaunchTest, NothingSurvivesAKilledLauncher) {
  const BackgroundLaunch background(*shared_, "orphaned");
  EXPECT_GE(running_in(shared_->path("")), 3);
  background.send(SIGKILL);
  EXPECT_EQ(background.exit_code(), 128 + 9);
  for (int i = 0; i < 100 && running_in(shared_->path("")) > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(running_in(shared_->path("")), 0);
}

}  // namespace
}  // namespace thimble
