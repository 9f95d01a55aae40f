// The resident memory of the built program, as the kernel measures it, against its plan. Sanitizers
// multiply memory, so this is not in the set that runs under them.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

class ResidentTest : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(dir_.path() / "config.json")
        << R"({"model_type":"llama","hidden_size":256,"intermediate_size":688,"num_hidden_layers":4,)"
           R"("num_attention_heads":4,"vocab_size":32000,"max_position_embeddings":256})";
    std::ofstream text(dir_.path() / "text.txt");
    for (int i = 0; i < 4000; ++i) text << "the " << i * 7919 % 1000 << " cats sat; ";
    std::ofstream(dir_.path() / "job.toml") << R"(
[model]
config = "config.json"
tokenizer = "byte"
[data]
seq_len = 256
cache_dir = "cache"
val_set_size = 0.05
[[data.train]]
path = "text.txt"
[training]
max_steps = 3
global_batch_size = 4
[optimizer]
lr = 1e-3
[checkpoint]
save_steps = 2
[eval]
eval_steps = 2
)";
  }

  // Runs the program in the test's directory; the most bytes it ever had resident, -1 if it failed.
  std::int64_t run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), THIMBLE_BINARY);
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const std::string directory = dir_.path().string();
    const pid_t child = ::fork();
    if (child == 0) {
      if (::chdir(directory.c_str()) != 0 || std::freopen("out.txt", "w", stdout) == nullptr ||
          std::freopen("err.txt", "w", stderr) == nullptr) {
        ::_exit(99);
      }
      ::execv(argv[0], argv.data());
      ::_exit(98);
    }
    int status = 0;
    rusage usage{};
    if (::wait4(child, &status, 0, &usage) != child || !WIFEXITED(status) ||
        WEXITSTATUS(status) != 0)
      return -1;
    return usage.ru_maxrss * kKiB;
  }

  TempDir dir_{"resident"};
};

TEST_F(ResidentTest, StaysWithinTheExactPlanAndAMargin) {
  for (const std::string dtype : {"bf16", "fp32"}) {
    for (const std::string recompute : {"none", "full"}) {
      const std::vector<std::string> job{"job.toml",
                                         "--set",
                                         "model.dtype=" + dtype,
                                         "--set",
                                         "memory.recompute=" + recompute,
                                         "--set",
                                         "output_dir=" + dtype + recompute};
      std::vector<std::string> plan_job{"plan", "--json"}, train_job{"train"};
      plan_job.insert(plan_job.end(), job.begin(), job.end());
      train_job.insert(train_job.end(), job.begin(), job.end());
      ASSERT_GT(run(plan_job), 0) << read_all(dir_.path() / "err.txt");
      const auto plan = nlohmann::json::parse(read_all(dir_.path() / "out.txt"));
      const auto planned = plan["peak_bytes"].get<std::int64_t>();
      const std::int64_t resident = run(train_job);
      ASSERT_GT(resident, 0) << read_all(dir_.path() / "err.txt");
      // Beyond the plan: the program and its libraries, thread stacks, the tokenised data.
      EXPECT_LE(resident, planned + planned / 10 + 64 * kMiB)
          << dtype << " " << recompute << ": planned " << planned;
      EXPECT_GT(resident, planned * 9 / 10) << "the plan counts what is not used";
      RecordProperty(dtype + "-" + recompute,
                     fmt::format("planned {} resident {}", planned, resident));
    }
  }
}

}  // namespace
}  // namespace thimble
