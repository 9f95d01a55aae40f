// `thimble inspect`: look into models, checkpoints, token files, tokenizers and a job's data.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_reader.h"
#include "core/base/text.h"
#include "core/io/safetensors_model.h"
#include "data/summary.h"
#include "data/token_file.h"
#include "data/training_data.h"
#include "launcher/commands/command.h"
#include "launcher/engine/checkpointing.h"
#include "launcher/engine/job_setup.h"
#include "launcher/engine/loaded_model.h"
#include "launcher/job/load_job.h"
#include "launcher/run/console.h"
#include "models/decoder.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct InspectArguments {
  std::string path, text, model;
  std::vector<std::int32_t> ids;
  std::int64_t rows = 3;
  bool json = false;
};

void inspect_model(const InspectArguments& a) {
  const ModelConfig config = load_model_config(fs::path(a.path) / "config.json");
  const SafetensorsModel files = SafetensorsModel::open(a.path);
  std::int64_t bytes = 0;
  Json tensors = Json::array();
  for (const auto& [name, location] : files.tensors()) {
    bytes += location.entry->bytes;
    tensors.push_back({{"name", name}, {"dtype", location.entry->dtype_text}, {"shape", location.entry->shape},
                       {"bytes", location.entry->bytes}});
  }
  if (a.json) {
    fmt::print("{}\n", Json{{"model_type", config.model_type}, {"parameters", config.num_parameters()}, {"bytes", bytes},
                            {"layers", config.num_layers}, {"hidden_size", config.hidden_size},
                            {"vocab_size", config.vocab_size}, {"max_positions", config.max_positions},
                            {"tensors", tensors}}
                           .dump());
    return;
  }
  for (const Json& t : tensors) {
    fmt::print("{:<52} {:<5} {:<16} {:>11}\n", t["name"].get<std::string>(), t["dtype"].get<std::string>(),
               t["shape"].dump(), format_bytes(t["bytes"].get<std::int64_t>()));
  }
  fmt::print("{}: {}, {:.2f} M parameters in {}, {} layers of {}, {} query and {} key heads of {}, vocabulary {}, {} "
             "positions, head {}\n",
             a.path, config.model_type, static_cast<double>(config.num_parameters()) / 1e6, format_bytes(bytes),
             config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
             config.vocab_size, config.max_positions, config.tied_head ? "tied" : "untied");
}

void inspect_checkpoint(const InspectArguments& a) {
  const auto files = make_file_engine();
  const CheckpointReader reader = CheckpointReader::open(a.path, {*files, {}});
  const TrainState state = checkpoint_state(reader);
  std::int64_t bytes = 0;
  for (const auto& [key, placed] : reader.tensors()) {
    bytes += placed.bytes;
    if (!a.json) fmt::print("{:<64} {}\n", key, describe(placed.tensor));
  }
  if (a.json) {
    fmt::print("{}\n", Json{{"step", reader.step()}, {"uuid", reader.uuid()}, {"tensors", reader.tensors().size()},
                            {"bytes", bytes}, {"tokens_seen", state.tokens_seen}, {"valid", true}}
                           .dump());
    return;
  }
  fmt::print("{}: step {}, {} arrays, {}, {} tokens seen; every byte verified\n", a.path, reader.step(),
             reader.tensors().size(), format_bytes(bytes), state.tokens_seen);
}

void inspect_tokens(const InspectArguments& a) {
  const TokenFile file(a.path);
  const Json out{{"documents", file.num_documents()}, {"tokens", file.num_tokens()}, {"prompts", file.has_prompts()},
                 {"bytes_per_token", text_bytes_per_token({&file})}};
  if (a.json) {
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("{}: {} documents, {} tokens, {:.2f} bytes a token{}\n", a.path, file.num_documents(), file.num_tokens(),
             out["bytes_per_token"].get<double>(), file.has_prompts() ? ", prompts untrained" : "");
}

void inspect_tokenizer(const InspectArguments& a) {
  const auto tokenizer = load_tokenizer(a.path);
  const std::vector<std::int32_t> ids = tokenizer->encode(a.text, {.parse_special = true});
  const auto id = [](const std::optional<std::int32_t>& value) { return value ? Json(*value) : Json(); };
  if (a.json) {
    fmt::print("{}\n", Json{{"vocab_size", tokenizer->vocab_size()}, {"bos_id", id(tokenizer->bos_id())},
                            {"eos_id", id(tokenizer->eos_id())}, {"pad_id", id(tokenizer->pad_id())},
                            {"add_bos", tokenizer->add_bos()}, {"ids", ids}}
                           .dump());
    return;
  }
  fmt::print("vocabulary {}, BOS {}{}, EOS {}, PAD {}\n", tokenizer->vocab_size(), id(tokenizer->bos_id()).dump(),
             tokenizer->add_bos() ? " (added)" : "", id(tokenizer->eos_id()).dump(), id(tokenizer->pad_id()).dump());
  for (const std::int32_t i : ids) fmt::print("{:>8}  '{}'\n", i, printable(tokenizer->token_text(i)));
}

void inspect_logits(const InspectArguments& a) {
  const LoadedModel loaded = load_model(a.model, "fp32");
  for (const std::int32_t id : a.ids) {
    if (id < 0 || id >= loaded.model->config().vocab_size) {
      throw_user("--ids {}: allowed 0 to {}", id, loaded.model->config().vocab_size - 1);
    }
  }
  Decoder decoder(*loaded.arena, *loaded.model, *loaded.store, loaded.dtype, static_cast<std::int64_t>(a.ids.size()));
  const std::vector<float> logits = decoder.feed(a.ids);
  fmt::print("{}\n", Json{{"input_ids", {a.ids}}, {"logits_last", {logits}}}.dump());
}

// One row: runs of trained and untrained tokens, document by document.
void print_row(const Batch& row, const Tokenizer& tokenizer, bool color) {
  std::size_t i = 0;
  const std::size_t n = row.tokens.size();
  while (i < n) {
    std::size_t end = i;
    const auto trained = [&](std::size_t at) { return row.weights[at] != 0.0f; };
    while (end < n && trained(end) == trained(i) && row.doc_start[end] == row.doc_start[i]) ++end;
    const std::span ids(row.tokens.data() + i, end - i);
    const std::string text = printable(tokenizer.decode(ids, {.skip_special = false}), 600);
    const char* mark = trained(i) ? "[train]" : "[     ]";
    if (color && trained(i)) {
      fmt::print("{} doc@{:<5} \x1b[32m{}\x1b[0m\n", mark, row.doc_start[i], text);
    } else {
      fmt::print("{} doc@{:<5} {}\n", mark, row.doc_start[i], text);
    }
    i = end;
  }
}

void inspect_data(const InspectArguments& a, CommandSession& session) {
  job::JobNotes notes;
  const job::JobConfig loaded = job::load_job(a.path, {}, notes);
  JobSetup setup = make_setup(loaded);
  setup.data.threads = apply_threads(loaded.threads);
  const auto tokenizer = open_tokenizer(setup.tokenizer, setup.model);
  const auto data = open_training_data(setup.data, *tokenizer, [](const std::string& w) { spdlog::warn("{}", w); }, {});
  const DataSummary& s = data->summary();
  if (a.json) {
    fmt::print("{}\n", Json{{"samples", s.samples}, {"tokens", s.tokens}, {"train_rows", s.train_rows},
                            {"trained_tokens", s.trained_tokens}, {"longest", s.longest}, {"dropped", s.dropped},
                            {"truncated", s.truncated}, {"duplicates", s.duplicates},
                            {"packing_efficiency", s.packing_efficiency}}
                           .dump());
    return;
  }
  for (std::int64_t i = 0; i < std::min(a.rows, data->train().num_rows()); ++i) {
    const std::int64_t id = data->sampler().row_at(i);
    fmt::print("row {} (place {} of training)\n", id, i);
    print_row(data->train().get_rows(std::span(&id, 1)), *tokenizer, session.console->traits().color);
  }
  fmt::print("{}\n", summary_text(s));
}

}  // namespace

void add_inspect_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<InspectArguments>();
  CLI::App* inspect = app.add_subcommand("inspect", "Look into a model, checkpoint, token file, tokenizer or a job's data");
  inspect->require_subcommand(1);
  inspect->footer("Examples:\n  thimble inspect model models/SmolLM2-135M\n"
                  "  thimble inspect checkpoint runs/demo/checkpoints/ckpt-200\n"
                  "  thimble inspect data job.toml -n 3\n"
                  "  thimble inspect tokenizer models/SmolLM2-135M --text \"Hello\"");
  const auto add = [&](const char* name, const char* help, auto run) {
    CLI::App* sub = inspect->add_subcommand(name, help);
    sub->add_flag("--json", a->json, "One JSON object");
    sub->callback([a, &session, run] {
      session.start();
      run(*a, session);
    });
    return sub;
  };
  const auto path = [&](CLI::App* sub, const char* what) { sub->add_option("path", a->path, what)->required(); };
  path(add("model", "Tensors and sizes of a model directory", [](const auto& x, auto&) { inspect_model(x); }), "Directory");
  path(add("checkpoint", "Arrays of a checkpoint; verifies every byte", [](const auto& x, auto&) { inspect_checkpoint(x); }),
       "Directory ckpt-N");
  path(add("tokens", "Size of a token file", [](const auto& x, auto&) { inspect_tokens(x); }), "File");
  CLI::App* tokenizer = add("tokenizer", "Special tokens, and the pieces of a text",
                            [](const auto& x, auto&) { inspect_tokenizer(x); });
  path(tokenizer, "Directory, file or \"byte\"");
  tokenizer->add_option("--text", a->text, "Text to tokenise");
  CLI::App* data = add("data", "Rows as they are trained on, and a summary",
                       [](const auto& x, auto& s) { inspect_data(x, s); });
  path(data, "Job file");
  data->add_option("-n", a->rows, "Rows to show")->check(CLI::NonNegativeNumber);
  CLI::App* logits = add("logits", "Logits after the last of some ids, in f32", [](const auto& x, auto&) { inspect_logits(x); });
  logits->add_option("--model", a->model, "Model directory")->required();
  logits->add_option("--ids", a->ids, "Token ids, comma-separated")->delimiter(',')->required();
}

}  // namespace thimble
