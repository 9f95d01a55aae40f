// `thimble tokenize`: text files to a memory-mapped token file.
#include "data/tokenize.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/ops/op_observer.h"
#include "data/summary.h"
#include "data/token_file.h"
#include "launcher/commands/command.h"
#include "launcher/commands/tokenize_progress.h"
#include "launcher/run/console.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

struct TokenizeArguments {
  std::string tokenizer, out, format = "auto", separator, chat_template = "tokenizer";
  std::vector<std::string> inputs;
  FieldNames fields;
  std::string special_tokens = "parse", on_bad_line = "error";
  int threads = 0;
  bool json = false;
};

void print_result(const TokenizeArguments& a, int threads, double seconds) {
  const TokenFile file(a.out);
  const TokenFileHeader& header = file.header();
  const double bytes_per_token = text_bytes_per_token({&file});
  const double mb_per_s = static_cast<double>(header.text_bytes) / seconds / 1e6;
  if (a.json) {
    const nlohmann::ordered_json out{{"file", a.out},
                                     {"documents", file.num_documents()},
                                     {"tokens", file.num_tokens()},
                                     {"bytes", header.text_bytes},
                                     {"bytes_per_token", bytes_per_token},
                                     {"special_tokens", header.num_special},
                                     {"bad_lines", header.num_bad_lines},
                                     {"empty", header.num_empty},
                                     {"duplicates", header.num_duplicates},
                                     {"threads", threads},
                                     {"seconds", seconds},
                                     {"mb_per_s", mb_per_s}};
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return;
  }
  std::string notes;
  if (header.num_special > 0)
    notes += fmt::format(", {} special tokens in the text", header.num_special);
  if (header.num_bad_lines > 0)
    notes += fmt::format(", {} bad lines skipped", header.num_bad_lines);
  fmt::print(
      "{}: {} documents, {} tokens{}, {} bytes, {:.2f} bytes per token, {:.1f} s, {:.1f} MB/s\n",
      a.out, file.num_documents(), file.num_tokens(), notes, header.text_bytes, bytes_per_token,
      seconds, mb_per_s);
}

void run_tokenize(const TokenizeArguments& a, CommandSession& session) {
  SourceSpec source;
  source.paths = a.inputs;
  source.format = parse_format(a.format, "--format");
  source.fields = a.fields;
  source.document_separator = a.separator;
  source.parse_special = a.special_tokens == "parse";
  source.chat = {.chat_template = a.chat_template, .tokenizer = a.tokenizer};
  source.skip_bad_lines = a.on_bad_line == "skip";
  const auto tokenizer = load_tokenizer(a.tokenizer);
  const TokenizeOptions options{.threads = a.threads > 0 ? a.threads : cpu_limit().usable,
                                .warn = [](const std::string& w) { spdlog::warn("{}", w); },
                                .progress = tokenize_progress(session)};
  const std::int64_t start = steady_now_ns();
  tokenize_files(source, *tokenizer, a.out, options);
  const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
  session.console->end_live_line();
  print_result(a, options.threads, seconds);
}

}  // namespace

void add_tokenize_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<TokenizeArguments>();
  CLI::App* tokenize = app.add_subcommand(
      "tokenize", "Tokenise text once; the file is trained on with format = \"tokens\"");
  tokenize
      ->add_option("inputs", a->inputs, "Files or globs: .txt, .jsonl, .json, also .gz and .zst")
      ->required();
  tokenize->add_option("--tokenizer", a->tokenizer, "Directory, file, or \"byte\"")->required();
  tokenize->add_option("--out", a->out, "Token file to write, *.tokens")->required();
  tokenize->add_option("--format", a->format,
                       "auto, text, prompt_completion, chat, sharegpt or alpaca");
  tokenize->add_option(
      "--chat-template", a->chat_template,
      "Of conversations: tokenizer (its own), chatml, llama3, mistral, alpaca or a file");
  add_field_options(*tokenize, a->fields);
  tokenize->add_option("--document-separator", a->separator, ".txt: text between documents");
  add_special_tokens_option(*tokenize, a->special_tokens);
  tokenize
      ->add_option("--on-bad-line", a->on_bad_line,
                   "A line of JSON that cannot be read: error, skip")
      ->check(CLI::IsMember({"error", "skip"}));
  tokenize->add_option("--threads", a->threads, "Threads (default: all)")
      ->check(CLI::Range(1, 1024));
  tokenize->add_flag("--json", a->json, "One JSON object");
  tokenize->footer(
      "Examples:\n"
      "  thimble tokenize --tokenizer models/SmolLM2-135M --out corpus.tokens 'corpus/*.txt'\n"
      "  thimble tokenize --tokenizer byte --out book.tokens book.txt\n"
      "An interrupted run continues when started again.");
  tokenize->callback([a, &session] {
    session.start();
    run_tokenize(*a, session);
  });
}

}  // namespace thimble
