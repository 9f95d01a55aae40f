// `thimble init`: a commented job file to start from.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "core/io/file.h"
#include "launcher/commands/command.h"
#include "launcher/job/write_job.h"
#include "models/model_config.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

struct InitArguments {
  std::string model, config, tokenizer, out = "job.toml";
  std::vector<std::string> data;
  bool force = false;
};

void run_init(const InitArguments& a) {
  if (a.model.empty() == a.config.empty()) throw_user("give one of --model (fine-tune) and --config (from scratch)");
  if (fs::exists(a.out) && !a.force) throw_user("{}: exists; --force overwrites it", a.out);
  const fs::path folder = fs::absolute(a.out).parent_path();
  // Paths in a job are relative to its file.
  const auto from_job = [&](const std::string& path) {
    return fs::exists(path) ? fs::relative(path, folder).string() : path;
  };
  job::InitValues values;
  values.from_scratch = a.model.empty();
  const std::string& model = values.from_scratch ? a.config : a.model;
  values.model = from_job(model);
  values.tokenizer = a.tokenizer == "byte" ? a.tokenizer : from_job(a.tokenizer);
  if (values.from_scratch && values.tokenizer.empty()) values.tokenizer = "byte";
  for (const std::string& path : a.data) values.data.push_back(from_job(path));
  const fs::path file = values.from_scratch ? fs::path(model) : fs::path(model) / "config.json";
  if (fs::exists(file)) {
    values.seq_len = std::min<std::int64_t>(values.seq_len, load_model_config(file).max_positions);
  }
  if (values.from_scratch) values.lr = 6e-4;
  write_file_atomic(a.out, job::commented_job_text(values));
  fmt::print("{0}\nnext: thimble plan {0}; thimble train {0}\n", a.out);
}

}  // namespace

void add_init_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<InitArguments>();
  CLI::App* init = app.add_subcommand("init", "Write a commented job file for a model and data");
  init->add_option("--model", a->model, "Hugging Face directory to fine-tune");
  init->add_option("--config", a->config, "config.json of a model to train from scratch");
  init->add_option("--tokenizer", a->tokenizer, "Tokenizer directory, or \"byte\" (default: the model's)");
  init->add_option("--data", a->data, "Training files (repeatable)")->required();
  init->add_option("--out", a->out, "Job file to write");
  init->add_flag("--force", a->force, "Overwrite an existing file");
  init->footer("Examples:\n  thimble init --model models/SmolLM2-135M --data pairs.jsonl\n"
               "  thimble init --config examples/models/130m.json --tokenizer tok/ --data 'corpus/*.txt' --out big.toml");
  init->callback([a, &session] {
    session.start();
    run_init(*a);
  });
}

}  // namespace thimble
