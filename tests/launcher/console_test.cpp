// What the console says before anything is started: help, hints for wrong options, refusals and
// what they propose, a look at the data.
#include <unistd.h>

#include "tests/launcher/commands_fixture.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

class ConsoleTest : public CommandsTest {};

TEST_F(ConsoleTest, HelpAloneListsTheCommandsAndPromisesWhatIsTrue) {
  ASSERT_EQ(d().run("--help"), 0);
  const std::string all = d().out();
  ASSERT_EQ(d().run("help"), 0);
  EXPECT_TRUE(d().out().starts_with(all)) << d().out();
  for (const char* part : {"Subcommands:", "  train ", "  doctor ", "thimble help job"})
    EXPECT_TRUE(contains(part)) << part;
  EXPECT_FALSE(contains("larger than the memory"));
}

TEST_F(ConsoleTest, HelpShowsDefaults) {
  const std::pair<const char*, const char*> shown[] = {
      {"train", "=auto"}, {"generate", "--max-new-tokens"}, {"init", "=job.toml"},
      {"launch", "=3"},   {"inspect data", "=3"},           {"tokenize", "=text"},
      {"plan", "=1"}};
  for (const auto& [command, part] : shown) {
    ASSERT_EQ(d().run("help " + std::string(command)), 0);
    EXPECT_TRUE(contains(part)) << command << "\n" << d().out();
    EXPECT_FALSE(contains("=[]")) << command;
    EXPECT_FALSE(contains("]=0 ") || contains("POSITIVE=0")) << command << "\n" << d().out();
  }
}

TEST_F(ConsoleTest, WrongOptionsAreToldTheRightOnes) {
  expect_mistake("train job.toml --lr 3", "did you mean --set optimizer.lr=3?");
  expect_mistake("train job.toml --learning-rate=1e-4", "--set optimizer.lr=1e-4?");
  expect_mistake("train job.toml --lr -1", "--set optimizer.lr=-1?");
  expect_mistake("train job.toml --max-steps", "--set training.max_steps=VALUE?");
  expect_mistake("plan job.toml --training.max_steps 5", "--set training.max_steps=5?");
  expect_mistake("plan job.toml --gradient-checkpointing", "recompute = \"full\"");
  expect_mistake("plan job.toml --jsn", "did you mean --json?");
  expect_mistake("eval --modell x", "did you mean --model?");
  expect_mistake("launch -n 2 train job.toml --set optimizer.lr=1",
                 "thimble launch -n 2 -- train job.toml --set optimizer.lr=1");
  expect_mistake("launch -n 2 job.toml", "thimble launch -n 2 -- train job.toml");
  expect_mistake("job.toml", "thimble train job.toml");
  expect_mistake("train", "see thimble help train");
  expect_mistake("inspect", "see thimble help inspect");
}

TEST_F(ConsoleTest, AModelOlderThanItsRunIsTold) {
  const std::string generate = "generate --model runs/job --prompt x --max-new-tokens 1";
  ASSERT_EQ(d().run(generate), 0);
  EXPECT_EQ(d().err().find("has gone on"), std::string::npos) << d().err();
  fs::create_directories(d().path("runs/job/checkpoints/ckpt-9"));
  ASSERT_EQ(d().run(generate), 0);
  fs::remove(d().path("runs/job/checkpoints/ckpt-9"));
  EXPECT_NE(d().err().find("that of step 2, and the run has gone on to step 9"), std::string::npos)
      << d().err();
}

TEST_F(ConsoleTest, ResultsThatCannotBeWrittenAreAFailure) {
  ASSERT_TRUE(fs::exists("/dev/full"));
  for (const std::string arguments :
       {"--version", "--help", "train --help", "help", "help job", "plan job.toml"}) {
    const std::string command = fmt::format("cd '{}' && '{}' {} > /dev/full 2> full.txt",
                                            d().path().string(), THIMBLE_BINARY, arguments);
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << arguments;
    EXPECT_NE(d().file("full.txt").find("standard output"), std::string::npos)
        << arguments << d().file("full.txt");
  }
}

TEST_F(ConsoleTest, PathsThatAreSomethingElseAreNamed) {
  fs::create_directories(d().path("folder"));
  fs::create_directories(d().path("unfinished/checkpoints"));
  for (const char* command : {"eval --text text.txt --model ", "generate --prompt x --model ",
                              "inspect model ", "inspect logits --ids 1 --model "}) {
    expect_mistake(std::string(command) + "missing", "missing: not a directory; allowed a model");
    expect_mistake(std::string(command) + "text.txt", "text.txt: not a directory");
    expect_mistake(std::string(command) + "folder", "folder: neither a model directory");
    expect_mistake(std::string(command) + "unfinished", "thimble convert unfinished");
    expect_mistake(std::string(command) + "runs/job/checkpoints/ckpt-2", "a checkpoint");
  }
  expect_mistake("inspect ranks missing", "missing: no such directory");
  expect_mistake("inspect ranks text.txt", "text.txt: no such directory");
  expect_mistake("inspect checkpoint missing", "missing: no such file or directory");
  expect_mistake("inspect checkpoint text.txt",
                 "text.txt: neither a file of torch.save nor one of llama2.c");
  expect_mistake("inspect model",
                 "inspect model: path is required; see thimble help inspect model");
  expect_mistake("inspect data job.toml --sequence 3",
                 "inspect data: unknown option --sequence; did you mean --sequences?");
  expect_mistake("inspect logits --model runs/job --ids ''", "an id is missing");
  expect_mistake("eval --model runs/job --text text.txt --context 0", "Value 0: allowed above 0");
  expect_mistake("launch -n 0 -- train job.toml", "--ranks: Value 0 not in range 1 to 65536");
  expect_mistake("init --config config.json --data text.txt --out none/x.toml",
                 "none/x.toml: its directory");
  expect_mistake("init --config config.json --data text.txt --force --out folder",
                 "folder: a directory");
  expect_mistake("plan folder", "folder: a directory, not a job file");
  expect_mistake("plan text.txt/job.toml", "text.txt/job.toml");
}

TEST_F(ConsoleTest, FilesWithoutPermissionAreTheUsersMistake) {
  if (::geteuid() == 0) {
    // Root reads everything: the program runs as nobody, in a folder that it may enter.
    ASSERT_EQ(std::system("setpriv --reuid=65534 --clear-groups true"), 0);
  }
  ProgramDir dir;
  fs::create_directories(dir.path("closed"));
  dir.write("closed/x.txt", "text");
  dir.write("closed/job.toml", "");
  dir.write("locked.toml", "");
  fs::permissions(dir.path(), fs::perms::all);
  for (const char* name : {"closed", "locked.toml"})
    fs::permissions(dir.path(name), fs::perms::none);
  const std::string as = ::geteuid() == 0 ? "setpriv --reuid=65534 --clear-groups" : "";
  for (const char* command :
       {"plan locked.toml", "train locked.toml", "plan closed/job.toml",
        "tokenize --tokenizer byte --out x.tokens closed/x.txt", "convert closed out",
        "inspect model closed", "generate --model closed --prompt x",
        "tokenize --tokenizer byte --out closed/x.tokens text.txt"}) {
    EXPECT_EQ(dir.run(command, as), 2) << command << ": " << dir.err();
    EXPECT_NE(dir.err().find("ermission denied"), std::string::npos) << command << dir.err();
    EXPECT_EQ(dir.err().find("filesystem error"), std::string::npos) << command << dir.err();
  }
  fs::permissions(dir.path("closed"), fs::perms::all);
}

TEST_F(ConsoleTest, RefusedJobsLeaveTheDiskAsItWas) {
  d().write("chat.jsonl", "{\"messages\":[]}\n");
  for (const char* wrong :
       {"--set memory.budget=1MiB", "--set 'data.train=[{path=\"chat.jsonl\"}]'", "--resume must",
        "--set optimizer.name=adamm", "--simulate 2 --set memory.budget=1MiB"}) {
    EXPECT_EQ(d().run("train job.toml --set output_dir=new/runs " + std::string(wrong)), 2)
        << wrong;
    EXPECT_FALSE(fs::exists(d().path("new/runs"))) << wrong;
    EXPECT_EQ(d().run("train job.toml --set name=other " + std::string(wrong)), 2) << wrong;
    EXPECT_FALSE(fs::exists(d().path("runs/other"))) << wrong;
  }
  EXPECT_EQ(d().run("train job.toml --fresh --set memory.budget=1MiB"), 2);
  EXPECT_TRUE(fs::exists(d().path("runs/job/model")));
  EXPECT_FALSE(fs::exists(d().path("runs/job.old-1")));
  EXPECT_EQ(d().run("train job.toml --set training.max_steps=2 --set memory.budget=1MiB"), 2);
  EXPECT_TRUE(fs::exists(d().path("runs/job/model")));
}

TEST_F(ConsoleTest, RefusalsProposeWhatFitsAndNothingSmaller) {
  const std::string base =
      "plan job.toml --json --set data.seq_len=128 --set training.global_batch_size=24 ";
  const auto resident = [&](const std::string& sets) {
    EXPECT_EQ(d().run(base + sets), 0) << d().err();
    return d().json()["resident_bytes"].get<std::int64_t>();
  };
  const std::int64_t most = resident("--set training.micro_batch_size=24"),
                     least = resident("--set training.micro_batch_size=1");
  ASSERT_GT(most, least);
  const std::string budget = "--set memory.budget=" + std::to_string((most + least) / 2) + "B ";
  ASSERT_EQ(d().run(base + budget + "--set training.micro_batch_size=24"), 2);
  std::istringstream lines(d().err());
  int proposals = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string mark = "  fits: ", key = "training.micro_batch_size = ";
    if (!line.starts_with(mark)) continue;
    ++proposals;
    std::string sets;
    std::int64_t micro = 24;
    if (const auto at = line.find(key); at != std::string::npos)
      micro = std::stoll(line.substr(at + key.size()));
    for (const char* mode : {"selective", "full"})
      if (line.find(mode) != std::string::npos) {
        sets += std::string("--set memory.recompute=") + mode + " ";
      }
    EXPECT_GT(micro, 1) << line;
    const auto with = [&](std::int64_t n) {
      return base + budget + sets + "--set training.micro_batch_size=" + std::to_string(n);
    };
    EXPECT_EQ(d().run(with(micro)), 0) << line;
    if (micro < 24) {
      EXPECT_EQ(d().run(with(micro + 1)), 2) << line;
    }
  }
  EXPECT_GE(proposals, 2);
  // Nothing that is as it was is proposed.
  ASSERT_EQ(d().run(base + "--set memory.budget=97MiB --set training.micro_batch_size=1 --set "
                           "memory.recompute=full"),
            2);
  const std::string said = d().err().substr(d().err().find("nothing was started"));
  EXPECT_EQ(said.find("training.micro_batch_size"), std::string::npos) << said;
  EXPECT_EQ(said.find("recompute"), std::string::npos) << said;
}

TEST_F(ConsoleTest, LearningRatesThatNobodyMeansAreWarnedOf) {
  const auto warned = [&](const std::string& sets) {
    EXPECT_EQ(d().run("plan job.toml --json " + sets), 0) << d().err();
    return d().err().find("warning: optimizer.lr") != std::string::npos;
  };
  EXPECT_TRUE(warned("--set optimizer.lr=100"));
  EXPECT_NE(d().err().find("adamw is used with 1e-6 to 0.01"), std::string::npos) << d().err();
  EXPECT_TRUE(warned("--set optimizer.lr=1 --set optimizer.name=lion"));
  EXPECT_TRUE(warned("--set optimizer.lr=1e-12"));
  EXPECT_FALSE(warned("--set optimizer.lr=0.01"));
  EXPECT_FALSE(warned("--set optimizer.lr=0.05 --set optimizer.name=muon"));
}

TEST_F(ConsoleTest, PlanAndInitLookAtTheData) {
  ASSERT_EQ(d().run("plan job.toml --json --tflops 0.5"), 0) << d().err();
  const auto plan = d().json();
  EXPECT_EQ(plan["steps"], 6);
  EXPECT_EQ(plan["tokens"], 6 * 8 * 64);
  ASSERT_EQ(d().run("inspect data job.toml -n 0 --json"), 0) << d().err();
  const auto summary = d().json()["summary"];
  EXPECT_EQ(plan["data"]["tokens"], summary["tokens"]);
  EXPECT_EQ(plan["data"]["documents"], summary["samples"]);
  EXPECT_TRUE(plan["data"]["exact"].get<bool>());
  EXPECT_NEAR(plan["epochs"].get<double>(), 6.0 * 8 / summary["train_sequences"].get<double>(),
              1e-3);
  EXPECT_NEAR(plan["run_s"].get<double>(), 6 * plan["compute_s"].get<double>(), 1e-9);
  ASSERT_EQ(d().run("plan job.toml --set training.max_steps= --set training.num_epochs=2"), 0);
  EXPECT_TRUE(contains(" epochs; at least ")) << d().out();
  EXPECT_EQ(d().run("plan job.toml --set training.max_steps=100000"), 0);
  EXPECT_NE(d().err().find("sees its data"), std::string::npos) << d().err();

  d().write("chat.jsonl", "{\"messages\":[]}\n");
  d().write("broken.jsonl", "{\"text\":\"a\"}\n{\"text\":\n");
  for (const auto& [file, message] :
       {std::pair{"chat.jsonl", "'byte' has no chat template"},
        std::pair{"broken.jsonl", "broken.jsonl:2: not valid JSON"}}) {
    expect_mistake(std::string("init --config config.json --out n.toml --data ") + file, message);
    expect_mistake(std::string("init --size 20m --out n.toml --force --data ") + file, message);
    EXPECT_FALSE(fs::exists(d().path("n.toml")));
    EXPECT_EQ(d().run("plan job.toml --set 'data.train=[{path=\"" + std::string(file) + "\"}]'"),
              2);
    EXPECT_NE(d().err().find(message), std::string::npos) << d().err();
  }
  ASSERT_EQ(d().run("init --model runs/job/model --data pairs.jsonl --out few.toml"), 0);
  EXPECT_TRUE(contains(" tokens in 2 documents")) << d().out();
  EXPECT_TRUE(contains("3 epochs") && contains("at least")) << d().out();
  ASSERT_EQ(d().run("plan few.toml --json"), 0) << d().err();
  EXPECT_LE(d().json()["epochs"].get<double>(), 3.01);
}

TEST_F(ConsoleTest, LargeDataIsEstimated) {
  std::ofstream lines(d().path("estimated.jsonl"));
  std::int64_t tokens = 0;
  for (int i = 0; i < 12000; ++i) {
    const std::string text(static_cast<std::size_t>(500 + i % 7 * 100), 'a');
    tokens += static_cast<std::int64_t>(text.size()) + 1;
    lines << "{\"text\":\"" << text << "\"}\n";
  }
  lines.close();
  ASSERT_EQ(d().run("plan job.toml --json --set 'data.train=[{path=\"estimated.jsonl\"}]'"), 0)
      << d().err();
  const auto data = d().json()["data"];
  EXPECT_FALSE(data["exact"].get<bool>());
  EXPECT_NEAR(data["tokens"].get<double>(), static_cast<double>(tokens),
              0.1 * static_cast<double>(tokens));
  EXPECT_NEAR(data["documents"].get<double>(), 12000, 1200);
}

}  // namespace
}  // namespace thimble
