// The commands around training, as a user types them: results, --json, exit codes, one clear line
// for a mistake.
#include "tests/launcher/commands_fixture.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

TEST_F(CommandsTest, InitWritesJobsThatPlanAccepts) {
  EXPECT_EQ(d().run("init --size 20m --data text.txt --out sized.toml"), 0) << d().err();
  EXPECT_TRUE(fs::exists(d().path("20m.json")));
  EXPECT_EQ(d().run("init --size 20m --data text.txt --out sized_too.toml"), 0) << d().err();
  EXPECT_EQ(d().run("plan sized.toml --json"), 0) << d().err();
  EXPECT_GT(d().json()["parameters"].get<std::int64_t>(), 1'000'000);
  EXPECT_EQ(d().run("init --config config.json --data text.txt --out from_config.toml"), 0)
      << d().err();
  EXPECT_EQ(d().run("plan from_config.toml"), 0) << d().err();
  EXPECT_EQ(d().run("init --model runs/job/model --data pairs.jsonl --out tune.toml"), 0)
      << d().err();
  EXPECT_EQ(d().run("plan tune.toml"), 0) << d().err();
  EXPECT_EQ(d().run("init --model runs/job --data pairs.jsonl --out tune_run.toml"), 0)
      << d().err();
  EXPECT_EQ(d().run("plan tune_run.toml"), 0) << d().err();
  expect_mistake("init --config config.json --data text.txt --out from_config.toml", "--force");
  expect_mistake("init --data text.txt --out x.toml", "--model");
  expect_mistake("init --size 21m --data text.txt --out x.toml", "20m, 60m");
  expect_mistake("init --config config.json --data nothing.txt --out x.toml", "nothing.txt");
  d().write("20m.json", "another model");
  expect_mistake("init --size 20m --data text.txt --out x.toml", "20m.json: exists; --force");
  EXPECT_FALSE(fs::exists(d().path("x.toml")));
}

TEST_F(CommandsTest, HelpExplainsEverything) {
  for (const char* command :
       {"train", "plan", "eval", "generate", "tokenize", "convert", "inspect", "init", "bench",
        "doctor", "help", "bench train", "bench disk", "inspect data"}) {
    EXPECT_EQ(d().run("help " + std::string(command)), 0) << command;
    EXPECT_TRUE(contains("Examples:") || contains("Example:")) << command;
  }
  EXPECT_EQ(d().run("help job"), 0);
  EXPECT_TRUE(contains("[training]"));
  EXPECT_EQ(d().run("help job.optimizer.lr"), 0);
  EXPECT_TRUE(contains("lr"));
  EXPECT_EQ(d().run("help completion bash"), 0);
  d().write("completion.bash", d().out());
  EXPECT_EQ(std::system(("bash -n '" + d().path("completion.bash").string() + "'").c_str()), 0);
  for (const char* shell : {"zsh", "fish"})
    EXPECT_EQ(d().run("help completion " + std::string(shell)), 0);
  expect_mistake("help trian", "did you mean 'train'");
  expect_mistake("help job.optimiser", "optimizer");
  expect_mistake("help completion tcsh", "bash, zsh, fish");
  expect_mistake("trian job.toml", "did you mean 'train'");
  EXPECT_EQ(d().run("--version --json"), 0);
  EXPECT_TRUE(d().json().contains("version"));
}

TEST_F(CommandsTest, TokenizeWritesWhatTrainingReads) {
  EXPECT_EQ(d().run("tokenize --tokenizer byte --out t.tokens text.txt --json"), 0) << d().err();
  const auto result = d().json();
  EXPECT_EQ(result["bytes"].get<std::uintmax_t>(), fs::file_size(d().path("text.txt")));
  EXPECT_EQ(result["documents"], 1);
  EXPECT_EQ(d().run("inspect tokens t.tokens --json"), 0) << d().err();
  EXPECT_EQ(d().json()["tokens"], result["tokens"]);
  EXPECT_EQ(d().run("tokenize --tokenizer byte --out p.tokens pairs.jsonl"), 0) << d().err();
  EXPECT_EQ(d().run("inspect tokens p.tokens --json"), 0);
  EXPECT_TRUE(d().json()["prompts"].get<bool>());
  expect_mistake("tokenize --tokenizer byte --out x.tokens missing.txt", "missing.txt");
  expect_mistake("tokenize --tokenizer nowhere --out x.tokens text.txt", "nowhere");
  d().write("bad.jsonl", "{\"text\":\"a\"}\n{\"text\":\n");
  expect_mistake("tokenize --tokenizer byte --out x.tokens bad.jsonl", "bad.jsonl:2");
  EXPECT_FALSE(fs::exists(d().path("x.tokens")));
}

TEST_F(CommandsTest, TokenizeContinuesWhereItWasKilled) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += std::to_string(i * 7919L % 1'000'003) + " cats. ";
  d().write("large.jsonl", "");
  std::ofstream lines(d().path("large.jsonl"));
  for (std::size_t at = 0; at < text.size(); at += 1000) {
    lines << "{\"text\":\"" << text.substr(at, 1000) << "\"}\n";
  }
  lines.close();
  ASSERT_EQ(d().run("tokenize --tokenizer byte --out whole.tokens large.jsonl"), 0) << d().err();
  EXPECT_EQ(d().run("tokenize --tokenizer byte --out again.tokens large.jsonl",
                    "THIMBLE_FAILPOINT=tokenize.chunk:2:kill"),
            128 + 9);
  EXPECT_FALSE(fs::exists(d().path("again.tokens")));
  EXPECT_TRUE(fs::exists(d().path("again.tokens.partial")));
  ASSERT_EQ(d().run("tokenize --tokenizer byte --out again.tokens large.jsonl"), 0) << d().err();
  EXPECT_TRUE(d().file("again.tokens") == d().file("whole.tokens"));
  EXPECT_FALSE(fs::exists(d().path("again.tokens.partial")));
}

TEST_F(CommandsTest, ConvertKeepsEveryByte) {
  EXPECT_EQ(d().run("convert runs/job from-run/"), 0) << d().err();
  EXPECT_EQ(d().run("convert runs/job/checkpoints/ckpt-2 from-checkpoint --json"), 0) << d().err();
  EXPECT_EQ(d().json()["kind"], "checkpoint");
  EXPECT_EQ(d().run("convert from-run again"), 0) << d().err();
  const std::string weights = d().file("runs/job/model/model.safetensors");
  for (const char* other : {"from-run", "from-checkpoint", "again"}) {
    EXPECT_EQ(d().file(std::string(other) + "/model.safetensors"), weights) << other;
  }
  EXPECT_EQ(d().run("convert from-run wide --dtype fp32 --max-shard-size 200KB"), 0) << d().err();
  EXPECT_TRUE(fs::exists(d().path("wide/model.safetensors.index.json")));
  expect_mistake("convert from-run from-run", "replace the source");
  expect_mistake("convert from-run cache", "choose another destination");
  expect_mistake("convert from-run again", "--force");
  expect_mistake("convert from-run x --max-shard-size 5XB", "--max-shard-size");
  expect_mistake("convert cache x", "neither a model directory");
  for (const auto& entry : fs::directory_iterator(d().path())) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
}

TEST_F(CommandsTest, ConvertTouchesNothingOfOthers) {
  const auto write = [](const std::string& name) {
    fs::create_directories(shared_->path(name).parent_path());
    std::ofstream(shared_->path(name)) << name;
  };
  // Beside a free destination: names an exporter might use.
  for (const char* name : {"out.tmp/mine", "out.old/mine", "out.old-1/mine"}) write(name);
  ASSERT_EQ(d().run("convert runs/job out"), 0) << d().err();
  // An existing destination, whatever it is, is refused, and with --force moved as it is.
  write("out/notes");
  expect_mistake("convert runs/job out", "--force");
  ASSERT_EQ(d().run("convert runs/job out --force --json"), 0) << d().err();
  EXPECT_EQ(d().json()["moved_aside"], "out.old-2");
  EXPECT_EQ(d().file("out.old-2/notes"), "out/notes");
  EXPECT_TRUE(fs::exists(d().path("out.old-2/model.safetensors")));
  for (const char* name : {"out.tmp/mine", "out.old/mine", "out.old-1/mine"})
    EXPECT_EQ(d().file(name), name);
  write("file");
  expect_mistake("convert runs/job file", "--force");
  ASSERT_EQ(d().run("convert runs/job file --force"), 0) << d().err();
  EXPECT_EQ(d().file("file.old-1"), "file");
  fs::create_directory(d().path("empty"));
  expect_mistake("convert runs/job empty", "--force");
  fs::create_symlink("nowhere", d().path("dangling"));
  expect_mistake("convert runs/job dangling", "--force");
  ASSERT_EQ(d().run("convert runs/job dangling --force"), 0) << d().err();
  EXPECT_TRUE(fs::is_symlink(d().path("dangling.old-1")));
  EXPECT_FALSE(fs::exists(d().path("nowhere")));
}

TEST_F(CommandsTest, ConvertNeverMovesItsSource) {
  const std::string weights = d().file("runs/job/model/model.safetensors");
  fs::create_directories(d().path("nest/inner"));
  fs::copy(d().path("runs/job/model"), d().path("nest/inner/model"));
  fs::create_directory_symlink("nest/inner/model", d().path("link"));
  // A model directory whose weights lie elsewhere, as a cache of downloads keeps them.
  fs::create_directories(d().path("cached"));
  fs::create_directories(d().path("blobs"));
  fs::copy(d().path("runs/job/model/model.safetensors"), d().path("blobs/w"));
  fs::copy(d().path("runs/job/model/config.json"), d().path("cached/config.json"));
  fs::create_symlink("../blobs/w", d().path("cached/model.safetensors"));
  const std::string here = d().path().string();
  for (const auto& [source, destination] : std::vector<std::pair<std::string, std::string>>{
           {"nest/inner/model", "nest/inner/model"},
           {"nest/inner/model", "nest/inner/model/"},
           {"nest/inner/model", "./nest/../nest/inner/model"},
           {"nest/inner/model", here + "/nest/inner/model"},
           {"nest/inner/model", "nest/inner"},
           {"nest/inner/model", "nest"},
           {"nest/inner/model", "."},
           {"nest/inner/model", ".."},
           {"nest/inner/model", "link"},
           {"link", "link"},
           {"link", "nest"},
           {"link", "nest/inner/model"},
           {"cached", "blobs"},
           {"runs/job", "runs/job/checkpoints"},
           {"runs/job", "runs"}}) {
    for (const char* force : {"", " --force"}) {
      const std::string command = "convert " + source + " " + destination + force;
      expect_mistake(command, "choose another destination");
    }
  }
  EXPECT_EQ(d().file("nest/inner/model/model.safetensors"), weights);
  EXPECT_EQ(d().file("blobs/w"), weights);
  EXPECT_TRUE(fs::exists(d().path("runs/job/checkpoints/ckpt-2")));
  // A free name inside of the source takes nothing from it.
  EXPECT_EQ(d().run("convert runs/job runs/job/wide --dtype fp32"), 0) << d().err();
}

TEST_F(CommandsTest, FineTuningKeepsWhatCameWithTheModel) {
  fs::copy(d().path("runs/job/model"), d().path("base"));
  auto config = nlohmann::ordered_json::parse(d().file("base/config.json"));
  config["pad_token_id"] = 0;
  config["my_key"] = {{"nested", 1}};
  d().write("base/config.json", config.dump(1));
  d().write("base/generation_config.json",
            "{ \"eos_token_id\":[1,256], \"top_p\": 0.9,\n\"mine\": 1}");
  d().write("base/README.md", "mine");
  d().write("base/chat_template.jinja", "{{ messages }}");
  d().write("base/pytorch_model.bin", "other weights");
  std::string job = d().file("job.toml");
  job.replace(job.find("config = \"config.json\""), 22, "path = \"base\"");
  d().write("tune.toml", job);
  ASSERT_EQ(d().run("train tune.toml --set training.max_steps=2 --set name=tune"), 0) << d().err();
  ASSERT_EQ(d().run("convert runs/tune from-tuned"), 0) << d().err();
  ASSERT_EQ(d().run("convert base from-base"), 0) << d().err();
  for (const char* out : {"runs/tune/model/", "from-tuned/", "from-base/"}) {
    for (const char* name :
         {"config.json", "generation_config.json", "README.md", "chat_template.jinja"}) {
      EXPECT_EQ(d().file(std::string(out) + name), d().file(std::string("base/") + name))
          << out << name;
    }
    EXPECT_FALSE(fs::exists(d().path(out + std::string("pytorch_model.bin")))) << out;
    EXPECT_TRUE(fs::exists(d().path(out + std::string("tokenizer.byte")))) << out;
  }
  // Another dtype is another meaning, of one key.
  ASSERT_EQ(d().run("convert runs/tune wide-tuned --dtype fp32"), 0) << d().err();
  config["torch_dtype"] = "float32";
  EXPECT_EQ(nlohmann::ordered_json::parse(d().file("wide-tuned/config.json")), config);
}

TEST_F(CommandsTest, InspectShowsWhatIsThere) {
  EXPECT_EQ(d().run("inspect model runs/job/model --json"), 0) << d().err();
  const auto model = d().json();
  EXPECT_EQ(model["layers"], 2);
  EXPECT_EQ(model["tensors"].size(), 2u * 9 + 3);
  EXPECT_EQ(d().run("inspect checkpoint runs/job/checkpoints/ckpt-2 --json"), 0) << d().err();
  EXPECT_EQ(d().json()["step"], 2);
  EXPECT_EQ(d().run("inspect tokenizer byte --text Hi --json"), 0) << d().err();
  EXPECT_EQ(d().json()["ids"], (std::vector<int>{'H', 'i'}));
  const std::string special = "inspect tokenizer byte --text 'a<|endoftext|>' --json";
  EXPECT_EQ(d().run(special), 0) << d().err();
  EXPECT_EQ(d().json()["ids"], (std::vector<int>{'a', 256}));
  EXPECT_EQ(d().run(special + " --special-tokens text"), 0) << d().err();
  EXPECT_EQ(d().json()["ids"].size(), 14u);
  EXPECT_EQ(d().run("inspect logits --model runs/job/model --ids 1,2,3 --json"), 0) << d().err();
  EXPECT_EQ(d().json()["logits_last"][0].size(), 257u);
  expect_mistake("inspect logits --model runs/job/model --ids 1,999", "0 to 256");
  expect_mistake("inspect checkpoint runs/job", "runs/job");
}

TEST_F(CommandsTest, InspectDataMarksExactlyWhatIsTrained) {
  ASSERT_EQ(d().run("init --config config.json --data pairs.jsonl --out pairs.toml --force"), 0)
      << d().err();
  ASSERT_EQ(d().run("inspect data pairs.toml -n 1 --json"), 0) << d().err();
  std::string trained, other;
  const auto shown = d().json();
  for (const auto& run : shown["sequences"][0]["runs"]) {
    if (!run["padding"].get<bool>())
      (run["trained"].get<bool>() ? trained : other) += run["text"].get<std::string>();
  }
  EXPECT_NE(trained.find("!"), std::string::npos) << trained;  // one of the two is held out
  EXPECT_NE(other.find("?"), std::string::npos) << other;
  EXPECT_EQ(trained.find("?"), std::string::npos) << trained;
  EXPECT_EQ(other.find("!"), std::string::npos) << other;
}

TEST_F(CommandsTest, EvalAndGenerateAgreeWithThemselves) {
  EXPECT_EQ(d().run("eval --model runs/job --text text.txt --json"), 0) << d().err();
  const auto first = d().json();
  EXPECT_GT(first["nats_per_token"].get<double>(), 0);
  EXPECT_NEAR(std::log(first["perplexity"].get<double>()), first["nats_per_token"].get<double>(),
              1e-9);
  EXPECT_EQ(d().run("eval --model runs/job/model --text text.txt --json"), 0);
  EXPECT_EQ(d().json(), first);
  EXPECT_EQ(d().run("generate --model runs/job --prompt the --max-new-tokens 8 --temperature 0"), 0)
      << d().err();
  const std::string greedy = d().out();
  EXPECT_EQ(d().run("generate --model runs/job --prompt the --max-new-tokens 8 --temperature 0"),
            0);
  EXPECT_EQ(d().out(), greedy);
  expect_mistake("eval --model runs/job --text missing.txt", "missing.txt");
  expect_mistake("generate --model nowhere --prompt x", "nowhere");
  d().write("empty.txt", "");
  expect_mistake("eval --model runs/job --text empty.txt", "empty.txt");
  d().write("utf16.txt", std::string("\xFF\xFEt\0h\0e\0", 8));
  expect_mistake("eval --model runs/job --text utf16.txt", "iconv -f UTF-16");
  expect_mistake("generate --model runs/job --prompt-file utf16.txt", "iconv -f UTF-16");
  ASSERT_EQ(d().run("eval --model runs/job --text text.txt --document-separator '\\n\\n'"), 0);
  EXPECT_NE(d().err().find("never occurs"), std::string::npos) << d().err();
  std::string written[2];
  for (const bool marked : {false, true}) {
    d().write("prompt.txt", std::string(marked ? "\xEF\xBB\xBF" : "") + "the ");
    ASSERT_EQ(d().run("generate --model runs/job --prompt-file prompt.txt --max-new-tokens 8 "
                      "--temperature 0"),
              0)
        << d().err();
    written[marked ? 1 : 0] = d().out();
  }
  EXPECT_EQ(written[0], written[1]);
  // As training cuts a text: no byte order mark, no separators.
  d().write("cut.txt", "\xEF\xBB\xBFthe cats##sat there##");
  d().write("one.txt", "the cats");
  d().write("two.txt", "sat there");
  double nats[3];
  const char* texts[] = {"cut.txt --document-separator '##'", "one.txt", "two.txt"};
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(d().run(std::string("eval --model runs/job --json --text ") + texts[i]), 0)
        << d().err();
    nats[i] = d().json()["nats_per_token"].get<double>() * d().json()["tokens"].get<double>();
  }
  EXPECT_NEAR(nats[0], nats[1] + nats[2], 1e-9);
  d().write("latin1.txt", "caf\xE9 and more");
  ASSERT_EQ(d().run("eval --model runs/job --text latin1.txt"), 0);
  EXPECT_NE(d().err().find("byte 3 is not valid UTF-8"), std::string::npos) << d().err();
}

TEST_F(CommandsTest, EvalScoresCompletionsOnly) {
  d().write("pair.jsonl", "{\"prompt\":\"the 12 cats \",\"completion\":\"sat; the 7 cats\"}\n");
  d().write("whole.jsonl", "{\"text\":\"the 12 cats sat; the 7 cats\"}\n");
  d().write("start.txt", "the 12 cats ");
  double nats[3];
  int tokens[3];
  int i = 0;
  for (const char* file : {"pair.jsonl", "whole.jsonl", "start.txt"}) {
    ASSERT_EQ(d().run("eval --model runs/job --dtype fp32 --json --text " + std::string(file)), 0)
        << d().err();
    tokens[i] = d().json()["tokens"].get<int>();
    nats[i] = tokens[i] * d().json()["nats_per_token"].get<double>();
    ++i;
  }
  EXPECT_EQ(tokens[0], 16);  // the completion and EOS
  EXPECT_EQ(tokens[0] + tokens[2], tokens[1]);
  EXPECT_NEAR(nats[0] + nats[2], nats[1], 1e-4 * nats[1]);
  ASSERT_EQ(d().run("eval --model runs/job --json --text pair.jsonl --context 4 --stride 2"), 0);
  EXPECT_EQ(d().json()["tokens"], 16);
  d().write("alpaca.jsonl", "{\"instruction\":\"the 12 cats \",\"output\":\"sat; the 7 cats\"}\n");
  const std::string fields = " alpaca.jsonl --field-prompt instruction --field-completion output ";
  ASSERT_EQ(d().run("eval --model runs/job --dtype fp32 --json --text" + fields), 0) << d().err();
  EXPECT_EQ(d().json()["tokens"], 16);
  ASSERT_EQ(d().run("init --config config.json --out alpaca.toml --data" + fields), 0) << d().err();
  EXPECT_NE(d().file("alpaca.toml").find("\nfields = {"), std::string::npos);
  EXPECT_NE(d().out().find("1 documents"), std::string::npos) << d().out();
  d().write("other.jsonl", "{\"a\":1}\n");
  expect_mistake("eval --model runs/job --text other.jsonl", "other.jsonl:1");
  expect_mistake("eval --model runs/job --text whole.jsonl --document-separator x",
                 "one document per line");
}

TEST_F(CommandsTest, PlanKnowsAnyNumberOfRanks) {
  std::int64_t before = 0;
  for (const int ranks : {1, 2, 8, 1024}) {
    EXPECT_EQ(d().run("plan job.toml --json --set parallelism.zero_stage=3 --ranks " +
                      std::to_string(ranks)),
              0)
        << d().err();
    const auto plan = d().json();
    EXPECT_EQ(plan["ranks"], ranks);
    std::int64_t optimizer = 0;
    for (const auto& phase : plan["phases"]) {
      if (phase["by_tag"].contains("optimizer"))
        optimizer = std::max(optimizer, phase["by_tag"]["optimizer"].get<std::int64_t>());
    }
    EXPECT_TRUE(before == 0 || optimizer < before);
    before = optimizer;
  }
  expect_mistake("plan job.toml --set parallelism.zero_stage=4", "zero_stage");
}

TEST_F(CommandsTest, PlanTellsTheTimeOfAStep) {
  const auto plan_of = [&](const std::string& arguments) {
    EXPECT_EQ(d().run("plan job.toml --json --tflops 0.5 " + arguments), 0) << d().err();
    return d().json();
  };
  const auto one = plan_of(""), four = plan_of("--ranks 4 --gb-per-s 2"),
             many = plan_of(
                 "--ranks 4 --gb-per-s 2 --set training.micro_batch_size=1 --set "
                 "training.global_batch_size=20 --set parallelism.zero_stage=3");
  // 8 sequences of 64 tokens; 2 blocks: q, k, v, o, gate, up, down; the head; the causal half of
  // attention.
  const double flops =
      6.0 * 8 * 64 * (2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) + 257 * 64 + 2 * 64 * 64);
  EXPECT_NEAR(one["compute_s"], flops / 0.5e12, 1e-9 * flops / 0.5e12);
  EXPECT_NEAR(four["compute_s"], one["compute_s"].get<double>() / 4, 1e-12);
  EXPECT_EQ(one["comm_s"], 0.0);
  for (const auto& plan : {four, many}) {
    const auto& sent = plan["sent_per_step"];
    const double bytes = sent["reduce_bytes"].get<double>() + sent["gather_bytes"].get<double>();
    EXPECT_NEAR(plan["comm_s"], bytes / 2e9, 1e-12);
  }
  EXPECT_EQ(many["gradient_accumulation_steps"], 5);
  EXPECT_TRUE(plan_of("--ranks 4")["comm_s"].is_null());
  EXPECT_EQ(d().run("bench comm --json"), 0) << d().err();
  EXPECT_GT(nlohmann::json::parse(d().out().substr(0, d().out().find('\n')))["sent_gb_per_s"], 0.0);
}

TEST_F(CommandsTest, DoctorAnswersMachines) {
  EXPECT_EQ(d().run("doctor --json"), 0) << d().err();
  const auto result = d().json();
  for (const char* key :
       {"cpu", "isa_in_use", "memory_bytes", "disk_free_bytes", "disk_write_mb_per_s",
        "disk_mixed_mb_per_s", "numa_nodes", "mpi", "warnings"}) {
    EXPECT_TRUE(result.contains(key)) << key;
  }
  EXPECT_GT(result["disk_mixed_mb_per_s"], 0.0);
}

}  // namespace
}  // namespace thimble
