// `thimble eval`: loss of a text under a model.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>

#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/file_kind.h"
#include "data/tokenize.h"
#include "data/utf8.h"
#include "launcher/commands/command.h"
#include "launcher/commands/eval_prefix.h"
#include "launcher/plan/job_setup.h"
#include "launcher/run/console.h"
#include "launcher/trainer/exported_template.h"
#include "launcher/trainer/loaded_model.h"

namespace thimble {
namespace {

struct EvalArguments {
  std::vector<std::string> adapters;
  std::string model, text, dtype = "auto", separator;
  std::string special_tokens = "parse";
  FieldNames fields;
  std::int64_t context = 0, stride = 0;
  bool json = false, by_position = false;
  std::int64_t prefix = 0;  // positions before the scored ones; 0: no compressed cache
  std::shared_ptr<KvArguments> kv = std::make_shared<KvArguments>();
};

struct PositionSum {
  double loss = 0;
  std::int64_t tokens = 0;
};

struct EvalTotals {
  double loss = 0;
  std::int64_t tokens = 0;
  std::vector<PositionSum> by_power;  // positions [2^i, 2^(i+1))
};

// Documents of a text, as training cuts it: without what separates them, and without a byte order
// mark.
std::vector<std::string_view> documents(std::string_view text, const std::string& separator) {
  text = without_byte_order_mark(text);
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const std::size_t end = separator.empty() ? text.npos : text.find(separator);
    if (end != 0) out.push_back(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + separator.size());
  }
  return out;
}

class Evaluator {
 public:
  Evaluator(LoadedModel& loaded, std::int64_t context, std::int64_t stride)
      : loaded_(loaded),
        context_(context),
        stride_(stride),
        tables_(loaded.model->make_tables(*loaded.arena, context)) {}

  EvalTotals totals;

  // On a planning arena, plans the memory of a window of `n` inputs.
  void plan(std::int64_t n) {
    window(std::vector<std::int32_t>(static_cast<std::size_t>(n + 1)), 0, n, n);
  }

  // Windows of `context` inputs, `stride` apart; each target is scored once, with the longest
  // context available.
  // The first `prompt_tokens` are context only.
  void document(const std::vector<std::int32_t>& ids, std::int64_t prompt_tokens = 0) {
    const auto count = static_cast<std::int64_t>(ids.size());
    // Targets ids[1..scored] are done.
    std::int64_t scored = std::max<std::int64_t>(0, prompt_tokens - 1);
    for (std::int64_t begin = 0; scored < count - 1; begin += stride_) {
      const std::int64_t n = std::min(context_, count - 1 - begin);
      if (begin + n <= scored) continue;
      window(ids, begin, n, scored - begin);
      scored = begin + n;
    }
  }

 private:
  // Scores positions [first, n) of the window that begins at `begin`.
  void window(const std::vector<std::int32_t>& ids, std::int64_t begin, std::int64_t n,
              std::int64_t first) {
    Batch batch{.sequences = 1, .seq_len = n};
    batch.tokens.assign(ids.begin() + begin, ids.begin() + begin + n);
    batch.targets.assign(ids.begin() + begin + 1, ids.begin() + begin + n + 1);
    batch.weights.assign(static_cast<std::size_t>(n), 1.0f);
    std::fill(batch.weights.begin(), batch.weights.begin() + first, 0.0f);
    batch.segment_start.assign(static_cast<std::size_t>(n), 0);
    batch.positions.resize(static_cast<std::size_t>(n));
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    const BatchTensors tensors = upload(*loaded_.arena, batch);
    Context ctx{.store = *loaded_.store, .arena = *loaded_.arena, .dtype = loaded_.dtype};
    const Tensor losses = loaded_.model->loss(ctx, tensors, tables_, 1.0f);
    std::vector<float> of(static_cast<std::size_t>(n));
    ops::to_host(of.data(), losses);
    for (std::int64_t i = first; i < n; ++i) {
      const double loss = of[static_cast<std::size_t>(i)];
      totals.loss += loss;
      ++totals.tokens;
      const auto power =
          static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(i + 1)) - 1);
      if (totals.by_power.size() <= power) totals.by_power.resize(power + 1);
      totals.by_power[power].loss += loss;
      ++totals.by_power[power].tokens;
    }
  }

  LoadedModel& loaded_;
  std::int64_t context_, stride_;
  std::vector<Tensor> tables_;
};

void print_totals(const EvalTotals& t, std::int64_t bytes, const EvalArguments& a) {
  const double mean = t.loss / static_cast<double>(t.tokens);
  const double bits = t.loss / std::numbers::ln2 / static_cast<double>(bytes);
  nlohmann::ordered_json json{{"nats_per_token", mean},
                              {"perplexity", std::exp(mean)},
                              {"tokens", t.tokens},
                              {"bits_per_byte", bits}};
  if (a.by_position) {
    for (std::size_t i = 0; i < t.by_power.size(); ++i) {
      if (t.by_power[i].tokens == 0) continue;
      json["by_position"].push_back(
          {{"from", 1 << i},
           {"nats_per_token", t.by_power[i].loss / static_cast<double>(t.by_power[i].tokens)},
           {"tokens", t.by_power[i].tokens}});
    }
  }
  if (a.json) {
    fmt::print("{}\n", json.dump());
    return;
  }
  fmt::print("{:.4f} nats/token, perplexity {:.3f}, {:.4f} bits/byte, {} tokens\n", mean,
             std::exp(mean), bits, t.tokens);
  for (const auto& row : json.value("by_position", nlohmann::ordered_json::array())) {
    fmt::print("  from position {:>6}: {:.4f} ({} tokens)\n", row["from"].get<int>(),
               row["nats_per_token"].get<double>(), row["tokens"].get<std::int64_t>());
  }
}

// Called with the tokens of each document and how many of them are its prompt.
using DocumentFn = std::function<void(const std::vector<std::int32_t>&, std::int64_t)>;

// A text's documents; returns the bytes that are scored.
std::int64_t read_text(const EvalArguments& a, const LoadedModel& loaded, const DocumentFn& next) {
  const Tokenizer& tokenizer = *loaded.tokenizer;
  const MappedFile file(a.text);
  check_is_text(a.text, file.text());
  if (const std::size_t bad = first_invalid_utf8(file.text()); bad < file.text().size())
    spdlog::warn("{}", invalid_utf8_warning(a.text, bad));
  if (!a.separator.empty() && file.text().find(a.separator) == std::string_view::npos) {
    spdlog::warn("{}: --document-separator never occurs, so the file is one document{}", a.text,
                 a.separator.find("\\n") == std::string::npos
                     ? ""
                     : "; a shell makes line ends of $'\\n', not of \"\\n\"");
  }
  std::int64_t bytes = 0;
  for (const std::string_view document : documents(file.text(), a.separator)) {
    std::vector<std::int32_t> ids;
    if (tokenizer.add_bos() && tokenizer.bos_id()) ids.push_back(*tokenizer.bos_id());
    tokenizer.encode_to(document, {.parse_special = a.special_tokens == "parse"}, ids);
    next(ids, 0);
    bytes += narrow<std::int64_t>(document.size());
  }
  return bytes;
}

// The samples of JSON lines, as training sees them: with EOS, the prompt not scored.
std::int64_t read_samples(const EvalArguments& a, const LoadedModel& loaded,
                          const DocumentFn& next) {
  const Tokenizer& tokenizer = *loaded.tokenizer;
  if (!a.separator.empty())
    throw_user("--document-separator: {} has one document per line", a.text);
  SourceSpec source{.paths = {a.text}};
  source.fields = a.fields;
  source.chat.tokenizer = template_directory(loaded);
  source.parse_special = a.special_tokens == "parse";
  source.format = resolve_format(source, source.paths);
  DocumentReader reader(
      source, source.paths, [](const std::string& w) { spdlog::warn("{}", w); }, {},
      chat_template_of(source, tokenizer));
  std::int64_t bytes = 0;
  while (const std::optional<DocumentPiece> piece = reader.next()) {
    std::vector<std::int32_t> ids;
    const DocumentRecord record =
        tokenize_piece(*piece, tokenizer, a.special_tokens == "parse", ids);
    if (!piece->chat) {
      next(ids, record.prompt_tokens);
      bytes += narrow<std::int64_t>(piece->text.size());
    }
    // Each turn of a conversation is scored after all that comes before it.
    for (const TokenRange& turn : record.ranges) {
      next({ids.begin(), ids.begin() + turn.end}, turn.begin);
      const auto of_turn = std::span(ids).subspan(static_cast<std::size_t>(turn.begin),
                                                  static_cast<std::size_t>(turn.end - turn.begin));
      for (const std::int32_t id : of_turn)
        bytes += narrow<std::int64_t>(tokenizer.token_text(id).size());
    }
  }
  return bytes;
}

// Whether a file holds samples and no text.
bool holds_samples(const std::string& path) {
  return !path.ends_with(".txt") &&
         (path.find(".jsonl") != path.npos || path.find(".json") != path.npos);
}

void print_prefix(const PrefixTotals& t, const EvalArguments& a) {
  const auto n = static_cast<double>(t.tokens);
  if (a.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"nats_per_token", t.loss / n},
                                              {"dense_nats_per_token", t.dense_loss / n},
                                              {"kl_nats_per_token", t.divergence / n},
                                              {"tokens", t.tokens},
                                              {"windows", t.windows},
                                              {"prefix", a.prefix},
                                              {"cache_bytes", t.bytes},
                                              {"dense_cache_bytes", t.dense_bytes}}
                           .dump());
    return;
  }
  fmt::print(
      "{:.4f} nats/token, dense {:.4f}, KL {:.4f}; {} tokens after {} of a prefix; cache {}, "
      "{:.1f} "
      "% of {}\n",
      t.loss / n, t.dense_loss / n, t.divergence / n, t.tokens, a.prefix, format_bytes(t.bytes),
      100 * static_cast<double>(t.bytes) / static_cast<double>(t.dense_bytes),
      format_bytes(t.dense_bytes));
}

// With --prefix: what a compressed cache loses.
void run_prefix_eval(const EvalArguments& a) {
  std::int64_t context = 0;
  LoadedModel loaded = load_model({a.model, a.adapters}, a.dtype, [&](LoadedModel& planned) {
    const std::int64_t longest = planned.model->config().max_positions;
    context = a.context > 0 ? a.context : std::min<std::int64_t>(longest, 2048);
    if (context > longest) throw_user("--context {}: the model has {} positions", context, longest);
    if (a.prefix >= context)
      throw_user("--prefix {}: allowed below the context, {}", a.prefix, context);
    const KvCaches caches(*a.kv, planned);
    PrefixEvaluator(planned, caches, context, a.prefix).plan();
  });
  const KvCaches caches(*a.kv, loaded);
  PrefixEvaluator evaluator(loaded, caches, context, a.prefix);
  const DocumentFn score = [&](const std::vector<std::int32_t>& ids, std::int64_t) {
    evaluator.document(ids);
  };
  static_cast<void>((holds_samples(a.text) ? read_samples : read_text)(a, loaded, score));
  const PrefixTotals& totals = evaluator.totals();
  if (totals.tokens == 0)
    throw_user("{}: no document is longer than --prefix {}", a.text, a.prefix);
  if (!std::isfinite(totals.loss)) throw_not_finite(loaded, "loss");
  print_prefix(totals, a);
}

void run_eval(const EvalArguments& a, CommandSession& session) {
  if (is_token_path(a.text)) throw_user("{}: name the text, not its tokens", a.text);
  if (MappedFile(a.text).text().empty()) throw_user("{}: the file is empty", a.text);
  if (a.prefix > 0) return run_prefix_eval(a);
  if (!a.kv->is_dense()) {
    throw_user(
        "--kv-method, --kv-bits and --compressor need --prefix: without it no key is read back");
  }
  std::int64_t context = 0, stride = 0;
  LoadedModel loaded = load_model({a.model, a.adapters}, a.dtype, [&](LoadedModel& planned) {
    const std::int64_t longest = planned.model->config().max_positions;
    context = a.context > 0 ? a.context : std::min<std::int64_t>(longest, 2048);
    if (context > longest) throw_user("--context {}: the model has {} positions", context, longest);
    stride = a.stride > 0 ? a.stride : context;
    if (stride > context) throw_user("--stride {}: allowed up to the context, {}", stride, context);
    Evaluator(planned, context, stride).plan(context);
  });
  Evaluator evaluator(loaded, context, stride);
  std::int64_t count = 0;
  const DocumentFn score = [&](const std::vector<std::int32_t>& ids, std::int64_t prompt_tokens) {
    evaluator.document(ids, prompt_tokens);
    ++count;
    if (evaluator.totals.tokens == 0 || !session.console->traits().live) return;
    session.console->set_live_line(
        fmt::format("{} documents, {} tokens, {:.4f} nats/token", count, evaluator.totals.tokens,
                    evaluator.totals.loss / static_cast<double>(evaluator.totals.tokens)));
  };
  const bool samples = holds_samples(a.text);
  const std::int64_t bytes = (samples ? read_samples : read_text)(a, loaded, score);
  session.console->end_live_line();
  if (evaluator.totals.tokens == 0) throw_user("{}: a single token has no loss", a.text);
  if (!std::isfinite(evaluator.totals.loss)) throw_not_finite(loaded, "loss");
  print_totals(evaluator.totals, bytes, a);
}

}  // namespace

void add_eval_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<EvalArguments>();
  CLI::App* eval =
      app.add_subcommand("eval", "Nats per token and perplexity of a text under a model");
  eval->add_option("--model", a->model,
                   "Hugging Face directory, run, or adapter whose base model is there");
  eval->add_option("--adapter", a->adapters,
                   "Adapter to merge into the model, as of `generate` (repeatable)");
  eval->add_option("--text", a->text,
                   "Text (.txt), or JSON lines: their text, or the loss of completions, or of the "
                   "assistant's turns")
      ->required();
  eval->add_option("--context", a->context,
                   "Positions per window (default: the model's, at most 2048)")
      ->check(CLI::PositiveNumber);
  eval->add_option("--stride", a->stride, "Positions between windows (default: the context)")
      ->check(CLI::PositiveNumber);
  eval->add_option("--document-separator", a->separator,
                   ".txt: text between documents, as in a job; it is not scored");
  add_field_options(*eval, a->fields);
  add_special_tokens_option(*eval, a->special_tokens);
  eval->add_option("--dtype", a->dtype, "auto, bf16 or fp32")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  eval->add_option("--prefix", a->prefix,
                   "Only tokens after so many of each window, whose keys and values are compressed "
                   "as --kv-method says")
      ->check(CLI::PositiveNumber);
  add_kv_options(*eval, a->kv);
  eval->add_flag("--by-position", a->by_position, "Also the loss per power-of-two position");
  eval->add_flag("--json", a->json,
                 "One JSON object: nats_per_token, perplexity, tokens, bits_per_byte");
  eval->footer(
      "Examples:\n"
      "  thimble eval --model runs/demo/model --text book.txt --json\n"
      "  thimble eval --model DIR --text stories.txt --document-separator $'\\n\\n\\n'\n"
      "  thimble eval --model runs/tuned --text held_out.jsonl\n"
      "  thimble eval --model DIR --text book.txt --prefix 1024 --kv-method snapkv --kv-budget "
      "0.25\n"
      "  thimble eval --model DIR --text book.txt --prefix 1024 --compressor runs/locret");
  eval->callback([a, &session] {
    session.start();
    run_eval(*a, session);
  });
}

}  // namespace thimble
