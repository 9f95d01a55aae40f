#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "launcher/job/load_job.h"
#include "launcher/job/write_job.h"
#include "optim/registry.h"

namespace thimble::job {
namespace {

using testing::HasSubstr;

namespace fs = std::filesystem;

/// A folder with a model directory, a data file and a job that names both.
class JobLoad : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("thimble_job_{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "m");
    std::ofstream(folder_ / "a.txt") << "text";
    environment_["HOME"] = folder_.string();
    write("m", "a.txt");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& model, const std::string& data, const std::string& rest = "") {
    std::ofstream(job())
        << "output_dir = \"out\"\n[model]\npath = \"" << model
        << "\"\n[data]\nseq_len = 8\n[[data.train]]\npath = \"" << data
        << "\"\n[training]\nmax_steps = 10\nglobal_batch_size = 4\n[optimizer]\nlr = 1e-4\n"
        << rest;
  }
  fs::path job() const { return folder_ / "tiny.toml"; }

  JobConfig load(const std::vector<std::string>& sets = {}) {
    notes_ = {};
    return load_job(job(), sets, environment_, notes_);
  }
  std::string error(const std::vector<std::string>& sets = {}) {
    try {
      load(sets);
    } catch (const UserError& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path folder_;
  Environment environment_;
  JobNotes notes_;
};

TEST_F(JobLoad, NameAndPaths) {
  const JobConfig config = load();
  EXPECT_EQ(config.name, "tiny");
  EXPECT_EQ(config.model.path, (folder_ / "m").string());
  EXPECT_EQ(config.data.train[0].path, std::vector<std::string>{(folder_ / "a.txt").string()});
  EXPECT_EQ(config.data.cache_dir, (folder_ / ".cache/thimble").string());
  EXPECT_EQ(config.output_dir, (fs::current_path() / "out").string());
  EXPECT_TRUE(notes_.overrides.empty());
  EXPECT_TRUE(notes_.warnings.empty());
  EXPECT_EQ(parse_job_text(resolved_job_text(config), "job.resolved.toml"), config);
  std::ofstream(folder_ / "again.toml") << resolved_job_text(config);
  EXPECT_EQ(load_job(folder_ / "again.toml", {}, environment_, notes_), config);
}

TEST_F(JobLoad, VariablesInPaths) {
  environment_["WHERE"] = folder_.string();
  write("${WHERE}/m", "~/a.txt");
  EXPECT_EQ(load().model.path, (folder_ / "m").string());
  EXPECT_EQ(load().data.train[0].path[0], (folder_ / "a.txt").string());
  environment_["TOKENIZER"] = "byte";
  EXPECT_EQ(load({"model.tokenizer=${TOKENIZER}"}).model.tokenizer, "byte");
  write("${NOWHERE}/m", "${a.txt");
  EXPECT_EQ(error(),
            job().string() +
                ":3:1: error: model.path = \"${NOWHERE}/m\": the variable NOWHERE is not set\n" +
                job().string() + ":7:1: error: data.train.path = \"${a.txt\": '${' without '}'");
}

TEST_F(JobLoad, MissingFiles) {
  write("no", "b.txt");
  EXPECT_EQ(error(),
            job().string() + ":3:1: error: model.path = \"no\": " + (folder_ / "no").string() +
                " does not exist\n" + job().string() +
                ":7:1: error: data.train.path = \"b.txt\": " + (folder_ / "b.txt").string() +
                " does not exist");
  write("m", "*.jsonl");  // whether a glob matches is known when the data is opened
  EXPECT_EQ(load().data.train[0].path[0], (folder_ / "*.jsonl").string());
  try {
    load_job(folder_ / "none.toml", {}, environment_, notes_);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_EQ(std::string(error.what()), (folder_ / "none.toml").string() + ": no such job file");
  }
  EXPECT_THROW(load_job(folder_, {}, environment_, notes_), UserError);
}

TEST_F(JobLoad, HubCache) {
  write("org/Name-1.5B", "a.txt");
  const std::string cache = (folder_ / ".cache/huggingface/hub").string();
  EXPECT_EQ(error(), job().string() +
                         ":3:1: error: model.path = \"org/Name-1.5B\": neither the directory " +
                         (folder_ / "org/Name-1.5B").string() + " nor in the Hub cache " + cache +
                         "; run: hf download org/Name-1.5B");
  const fs::path repository = fs::path(cache) / "models--org--Name-1.5B";
  fs::create_directories(repository / "snapshots" / "abc");
  EXPECT_EQ(load().model.path, (repository / "snapshots/abc").string());  // the only snapshot
  fs::create_directories(repository / "snapshots" / "def");
  EXPECT_NE(error(), "no error");  // two, and nothing says which
  fs::create_directories(repository / "refs");
  std::ofstream(repository / "refs" / "main") << "def";
  EXPECT_EQ(load().model.path, (repository / "snapshots/def").string());
  std::ofstream(repository / "refs" / "main") << "../../..";
  EXPECT_NE(error(), "no error");
  environment_["HF_HOME"] = (folder_ / "hf").string();
  fs::create_directories(folder_ / "hf/hub/models--org--Name-1.5B/snapshots/xyz");
  EXPECT_EQ(load().model.path, (folder_ / "hf/hub/models--org--Name-1.5B/snapshots/xyz").string());
}

TEST_F(JobLoad, ARunStandsForItsExportedModel) {
  const fs::path run = folder_ / "runs" / "first";
  fs::create_directories(run / "checkpoints");
  write("runs/first", "a.txt");
  EXPECT_THAT(error(), HasSubstr("thimble convert " + run.string() + " DIRECTORY"));
  fs::create_directories(run / "model");
  std::ofstream(run / "model" / "config.json") << "{}";
  EXPECT_EQ(load().model.path, (run / "model").string());
}

TEST_F(JobLoad, PrecedenceIsJobVariableSet) {
  environment_["THIMBLE_OPTIMIZER_LR"] = "2e-4";
  environment_["THIMBLE_SEED"] = "7";
  environment_["THIMBLE_NAME"] = "";
  const JobConfig config =
      load({"optimizer.lr=3e-4", "model.dtype=fp32", "eval.sample_prompts=[\"a\", \"b\"]",
            "model.freeze=x.*", "threads=auto", "memory.budget=5GB", "training.max_steps=1e3"});
  EXPECT_EQ(config.optimizer.lr, 3e-4);
  EXPECT_EQ(config.seed, 7);
  EXPECT_EQ(config.name, "tiny");
  EXPECT_EQ(config.model.dtype, DType::kF32);
  EXPECT_EQ(config.eval.sample_prompts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.model.freeze, std::vector<std::string>{"x.*"});
  EXPECT_EQ(config.memory.budget.value->bytes, 5'000'000'000);
  EXPECT_EQ(config.training.max_steps, 1000);
  ASSERT_EQ(notes_.overrides.size(), 9u);
  EXPECT_EQ(notes_.overrides[0], "seed = 7 (THIMBLE_SEED=7; was not set)");
  EXPECT_EQ(notes_.overrides[1], "optimizer.lr = 0.0002 (THIMBLE_OPTIMIZER_LR=2e-4; was 0.0001)");
  EXPECT_EQ(notes_.overrides[2], "optimizer.lr = 0.0003 (--set optimizer.lr=3e-4; was 0.0002)");
}

TEST_F(JobLoad, SetTakesAKeyOut) {
  const JobConfig config = load({"training.max_steps=", "training.num_epochs=2"});
  EXPECT_FALSE(config.training.max_steps.has_value());
  EXPECT_EQ(config.training.num_epochs, 2.0);
  EXPECT_EQ(notes_.overrides[0],
            "training.max_steps = its default (--set training.max_steps=; was 10)");
}

TEST_F(JobLoad, SetMakesTablesAndLists) {
  const JobConfig config = load({"model.rope_scaling.rope_type=yarn", "model.rope_scaling.factor=4",
                                 "data.train=[{path = \"a.txt\", weight = 2}]"});
  EXPECT_EQ(config.model.rope_scaling->rope_type, RopeScaling::Type::kYarn);
  EXPECT_EQ(config.data.train[0].weight, 2.0);
}

TEST_F(JobLoad, MistakesInOverridesNameTheOverride) {
  environment_["THIMBLE_SEED"] = "x";
  EXPECT_EQ(
      error({"optimizer.lr=-1", "optimizer.learning_rate=1", "optimiser.lr=1", "data.train.path=x",
             "model.dtype=fp8", "sed=1", "model.b.c=1", "training.max_steps=1\nx=2"}),
      "THIMBLE_SEED=x: error: seed = \"x\": expected a whole number, found a string\n"
      "--set optimizer.lr=-1: error: optimizer.lr = -1: allowed > 0\n"
      "--set optimizer.learning_rate=1: error: unknown key 'learning_rate' in [optimizer]; Thimble "
      "calls it 'lr'\n"
      "--set optimiser.lr=1: error: unknown table [optimiser]; did you mean [optimizer]?\n"
      "--set data.train.path=x: error: cannot reach into [[data.train]]; edit the job, or give the "
      "whole list\n"
      "--set model.dtype=fp8: error: model.dtype = \"fp8\": unknown choice; allowed \"bf16\", "
      "\"fp32\"\n"
      "--set sed=1: error: unknown key 'sed' at the top level; did you mean 'seed'?\n"
      "--set model.b.c=1: error: unknown table [model.b]; did you mean [model]?\n"
      "--set training.max_steps=1\\x0ax=2: error: training.max_steps = \"1\\x0ax=2\": expected a "
      "whole number, "
      "found a string");
}

TEST_F(JobLoad, KeysThatExcludeEachOtherSayTheWayOut) {
  EXPECT_THAT(error({"training.num_epochs=2"}),
              HasSubstr("; --set training.max_steps= takes it out of the job"));
  EXPECT_THAT(error({"device=gpu"}), HasSubstr("did you mean \"cuda\"?"));
}

TEST_F(JobLoad, SetWithoutValue) {
  EXPECT_EQ(error({"optimizer.lr", "=3"}),
            "--set optimizer.lr: error: expected key=value\n--set =3: error: expected key=value");
}

TEST_F(JobLoad, UnknownVariablesAreWarnings) {
  environment_["THIMBLE_OPTIMIZR_LR"] = "1";
  environment_["THIMBLE_FAILPOINT"] = "a:1:kill";
  environment_["THIMBLE_QQQQQQQQQQQQQ"] = "1";
  load();
  EXPECT_EQ(notes_.warnings,
            (std::vector<std::string>{
                "THIMBLE_OPTIMIZR_LR is no variable of Thimble; did you mean THIMBLE_OPTIMIZER_LR?",
                "THIMBLE_QQQQQQQQQQQQQ is no variable of Thimble"}));
}

TEST(JobText, SyntaxErrorsHaveLineAndColumn) {
  const auto error = [](std::string_view text) -> std::string {
    try {
      parse_job_text(text, "job.toml");
    } catch (const UserError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error("a = 1\nb = 2\nseed = \n").rfind("job.toml:3:", 0), 0u)
      << error("a = 1\nb = 2\nseed = \n");
  EXPECT_EQ(error("seed = 1\nseed = 2\n").rfind("job.toml:2:", 0), 0u);
  EXPECT_EQ(error("\xff\xfe").rfind("job.toml:1:1: error: ", 0), 0u);
  EXPECT_EQ(error("x = " + std::string(5000, '[')).rfind("job.toml:1:", 0), 0u);
  EXPECT_EQ(error(std::string(2 << 20, '\n')),
            "job.toml:1:1: error: a job file holds at most 1 MiB");
}

TEST(JobText, HostileTextIsRefusedQuickly) {
  std::string deep = "[a";
  for (int i = 0; i < 300'000; ++i) deep += ".a";
  EXPECT_THROW(parse_job_text(deep + "]", "job.toml"), UserError);
  std::string dotted = "a";
  for (int i = 0; i < 100'000; ++i) dotted += " . \"a\"";
  EXPECT_THROW(parse_job_text(dotted + " = 1", "job.toml"), UserError);
  std::string many;
  for (int i = 0; i < 50'000; ++i) many += fmt::format("k{}=1\n", i);
  EXPECT_THROW(parse_job_text(many, "job.toml"), UserError);
  std::string sources;
  for (int i = 0; i < 40'000; ++i) sources += "[[data.train]]\nx=1\n";
  EXPECT_THROW(parse_job_text(sources, "job.toml"), UserError);
  EXPECT_THROW(parse_job_text("name = \"" + std::string(900'000, 'a') + "\"", "job.toml"),
               UserError);
  EXPECT_THROW(
      parse_job_text("[optimizer]\nname = \"" + std::string(900'000, 'a') + "\"", "job.toml"),
      UserError);
  EXPECT_THROW(parse_job_text(std::string(900'000, 'a') + " = 1", "job.toml"), UserError);
}

// Beside what differs from the defaults, which a resolved job lists whole.
TEST_F(JobLoad, KeysThatTheOptimizerDoesNotReadAreRefused) {
  const auto said = [](const std::string& optimizer) {
    const std::string job =
        "name = \"j\"\n[model]\nconfig = \"c.json\"\n[data]\nseq_len = 8\n[[data.train]]\npath = "
        "\"t.txt\"\n"
        "[training]\nmax_steps = 10\nglobal_batch_size = 4\n[optimizer]\nlr = 1e-4\n" +
        optimizer;
    try {
      parse_job_text(job, "job.toml");
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  std::string readers;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    if (reads_key(entry, "rank"))
      readers += fmt::format("{}{}", readers.empty() ? "" : ", ", entry.name);
  }
  EXPECT_EQ(
      said("rank = 8\n"),
      "job.toml:13:1: error: optimizer.rank has no effect: adamw does not read it; it is read "
      "by " +
          readers);
  EXPECT_NE(said("name = \"sgd\"\nbetas = [0.5, 0.9]\n").find("sgd does not read it"),
            std::string::npos);
  EXPECT_EQ(said("name = \"sgd\"\nbetas = [0.9, 0.95]\n"), "");
  EXPECT_EQ(said("name = \"apollo\"\nrank = 8\neps = 1e-6\n"), "");  // eps: of the fallback
  EXPECT_EQ(said("name = \"muon\"\nmomentum = 0.8\nbetas = [0.5, 0.9]\n"), "");
  EXPECT_NE(said("name = \"muon\"\nrank = 8\n").find("adamw, muon do not read it"),
            std::string::npos);
  EXPECT_EQ(said("[[optimizer.groups]]\nmatch = \".*\"\nname = \"galore\"\nrank = 8\n"), "");
  EXPECT_NE(said("[[optimizer.groups]]\nmatch = \".*\"\nname = \"muon\"\nrank = 8\n")
                .find("optimizer.groups.rank has no effect: muon does not read it"),
            std::string::npos);
}

}  // namespace
}  // namespace thimble::job
