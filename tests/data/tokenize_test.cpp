// Tokenising: contents, independence of threads, resuming after kill -9 at any chunk, and the
// cache.
#include "data/tokenize.h"

#include <gmock/gmock.h>
#include <sys/wait.h>

#include <csignal>
#include <random>

#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using testing::FakeTokenizer;
using ::testing::HasSubstr;
using testing::message_of;
using testing::read_bytes;
using testing::TempDir;

std::vector<std::int32_t> tokens_of(const TokenFile& file, std::int64_t document) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.document_tokens(document)));
  file.copy_tokens(file.document_begin(document), tokens);
  return tokens;
}

/// About `megabytes` of JSON lines with documents of very different lengths.
std::string corpus(int megabytes) {
  std::mt19937 random(11);
  std::string lines;
  while (lines.size() < static_cast<std::size_t>(megabytes) << 20) {
    std::string text(random() % (random() % 20 == 0 ? 300000 : 3000), ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 26);
    lines += "{\"text\": \"" + text + "\"}\n";
  }
  return lines;
}

SourceSpec text_source(std::vector<std::string> paths) {
  SourceSpec source;
  source.paths = std::move(paths);
  return source;
}

TEST(Tokenize, DocumentsGetBosAndEos) {
  TempDir dir;
  const SourceSpec source = text_source({dir.write(
      "a.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"\"}\n{\"text\":\"c\"}\n{\"text\":\"ab\"}\n")});
  for (const bool bos : {false, true}) {
    tokenize_files(source, FakeTokenizer(bos), dir.file("out.tokens"), {});
    const TokenFile file(dir.file("out.tokens"));
    ASSERT_EQ(file.num_documents(), 3);
    const std::vector<std::int32_t> without{'a', 'b', 257};
    const std::vector<std::int32_t> with{256, 'a', 'b', 257};
    EXPECT_EQ(tokens_of(file, 0), bos ? with : without);
    EXPECT_EQ(file.header().num_empty, 1);
    EXPECT_EQ(file.header().num_duplicates, 1);
    EXPECT_EQ(file.header().text_bytes, 5);
    EXPECT_FALSE(file.has_prompts());
  }
}

TEST(Tokenize, SamplesKeepTheLengthOfTheirPrompt) {
  TempDir dir;
  const SourceSpec source = text_source({dir.write(
      "a.jsonl",
      "{\"prompt\":\"ab\",\"completion\":\"c\"}\n{\"prompt\":\"\",\"completion\":\"d\"}\n")});
  tokenize_files(source, FakeTokenizer(true), dir.file("out.tokens"), {});
  const TokenFile file(dir.file("out.tokens"));
  EXPECT_TRUE(file.has_prompts());
  EXPECT_EQ(tokens_of(file, 0), (std::vector<std::int32_t>{256, 'a', 'b', 'c', 257}));
  EXPECT_EQ(file.prompt_tokens(0), 3);
  EXPECT_EQ(tokens_of(file, 1), (std::vector<std::int32_t>{256, 'd', 257}));
  EXPECT_EQ(file.prompt_tokens(1), 0);
}

TEST(Tokenize, OneLargeTextFileIsOneDocument) {
  TempDir dir;
  std::string text;
  while (text.size() < (std::size_t{9} << 20)) text += "some words of text and ";
  const SourceSpec source = text_source({dir.write("a.txt", text), dir.write("b.txt", "x")});
  tokenize_files(source, FakeTokenizer(true), dir.file("out.tokens"), {.threads = 3});
  const TokenFile file(dir.file("out.tokens"));
  ASSERT_EQ(file.num_documents(), 2);
  ASSERT_EQ(file.document_tokens(0), static_cast<std::int64_t>(text.size()) + 2);
  const auto tokens = tokens_of(file, 0);
  EXPECT_EQ(tokens.front(), 256);
  EXPECT_EQ(tokens.back(), 257);
  for (std::size_t i = 0; i < text.size(); ++i) ASSERT_EQ(tokens[i + 1], text[i]);
}

TEST(Tokenize, BytesDoNotDependOnThreads) {
  TempDir dir;
  const SourceSpec source = text_source({dir.write("a.jsonl", corpus(5))});
  tokenize_files(source, FakeTokenizer(), dir.file("1.tokens"), {.threads = 1});
  const std::string one = read_bytes(dir.file("1.tokens"));
  for (const int threads : {2, 5}) {
    tokenize_files(source, FakeTokenizer(), dir.file("n.tokens"), {.threads = threads});
    EXPECT_TRUE(read_bytes(dir.file("n.tokens")) == one) << threads;
  }
}

TEST(Tokenize, KilledAtAnyChunkItGoesOnToTheSameBytes) {
  TempDir dir;
  const SourceSpec source = text_source({dir.write("a.jsonl", corpus(4))});
  tokenize_files(source, FakeTokenizer(), dir.file("whole.tokens"), {});
  const std::string whole = read_bytes(dir.file("whole.tokens"));
  for (int kill_at = 1; kill_at <= 4; ++kill_at) {
    const std::string out = dir.file(fmt::format("k{}.tokens", kill_at));
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int chunks = 0;
      TokenizeOptions options;
      options.threads = 2;
      options.progress = [&](const TokenizeProgress&) {
        if (++chunks == kill_at) ::raise(SIGKILL);
      };
      tokenize_files(source, FakeTokenizer(), out, options);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ASSERT_FALSE(std::filesystem::exists(out));
    tokenize_files(source, FakeTokenizer(), out, {.threads = kill_at});
    EXPECT_TRUE(read_bytes(out) == whole) << kill_at;
    EXPECT_FALSE(std::filesystem::exists(out + ".partial"));
    EXPECT_FALSE(std::filesystem::exists(out + ".partial.journal"));
  }
}

struct Stop {};

/// Runs and stops by an exception after `chunks` chunks.
void interrupt(const SourceSpec& source, const Tokenizer& tokenizer, const std::string& out,
               int chunks) {
  TokenizeOptions options;
  options.threads = 2;
  options.progress = [&chunks](const TokenizeProgress&) {
    if (--chunks == 0) throw Stop();
  };
  EXPECT_THROW(tokenize_files(source, tokenizer, out, options), Stop);
}

/// Counts the bytes it is asked to encode.
class CountingTokenizer final : public Tokenizer {
 public:
  CountingTokenizer() {
    info_ = TokenizerInfo{"count", 258, 256, 257, std::nullopt, false, false, 7};
  }
  void encode_to(std::string_view text, EncodeOptions,
                 std::vector<std::int32_t>& ids) const override {
    bytes += text.size();
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  mutable std::atomic<std::size_t> bytes{0};
};

TEST(Tokenize, DoneChunksAreSkipped) {
  TempDir dir;
  const std::string text = corpus(4);
  const SourceSpec source = text_source({dir.write("a.jsonl", text)});
  interrupt(source, FakeTokenizer(), dir.file("a.tokens"), 3);
  const CountingTokenizer counting;
  tokenize_files(source, counting, dir.file("a.tokens"), {});
  EXPECT_LT(counting.bytes, text.size() / 2);
  tokenize_files(source, FakeTokenizer(), dir.file("b.tokens"), {});
  EXPECT_TRUE(read_bytes(dir.file("a.tokens")) == read_bytes(dir.file("b.tokens")));
}

TEST(Tokenize, DamagedOrForeignPartialFilesAreNotBelieved) {
  TempDir dir;
  const std::string text = corpus(4);
  const SourceSpec source = text_source({dir.write("a.jsonl", text)});
  tokenize_files(source, FakeTokenizer(), dir.file("whole.tokens"), {});
  const std::string whole = read_bytes(dir.file("whole.tokens"));
  std::mt19937 random(1);
  const std::string out = dir.file("x.tokens");
  for (int trial = 0; trial < 6; ++trial) {
    interrupt(source, FakeTokenizer(), out, 3);
    const std::string name = trial % 2 == 0 ? "x.tokens.partial" : "x.tokens.partial.journal";
    std::string bytes = read_bytes(dir.file(name));
    ASSERT_FALSE(bytes.empty());
    if (trial % 3 == 0) {
      bytes.resize(random() % bytes.size());
    } else {
      const std::size_t at =
          trial % 2 == 0 ? 4096 + random() % (bytes.size() - 4096) : random() % bytes.size();
      bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    }
    dir.write(name, bytes);
    tokenize_files(source, FakeTokenizer(), out, {.threads = 2});
    EXPECT_TRUE(read_bytes(out) == whole) << trial;
  }
  // Another tokenizer, or other text, begins anew where they differ.
  interrupt(source, FakeTokenizer(true), out, 3);
  tokenize_files(source, FakeTokenizer(), out, {});
  EXPECT_TRUE(read_bytes(out) == whole);
  std::string changed = text;
  changed[text.size() - 10] = '#';
  changed[20] = '#';
  dir.write("a.jsonl", changed);
  interrupt(source, FakeTokenizer(), out, 3);
  dir.write("a.jsonl", text);
  tokenize_files(source, FakeTokenizer(), out, {});
  EXPECT_TRUE(read_bytes(out) == whole);
}

TEST(Tokenize, ErrorsOfTheDataSurfaceFromAnyThreadCount) {
  TempDir dir;
  const SourceSpec source = text_source({dir.write("a.jsonl", corpus(2) + "{\"text\": 1}\n")});
  for (const int threads : {1, 4}) {
    EXPECT_THAT(message_of<UserError>([&] {
                  tokenize_files(source, FakeTokenizer(), dir.file("a.tokens"),
                                 {.threads = threads});
                }),
                HasSubstr("field 'text' is number, a string is needed"));
  }
  EXPECT_FALSE(std::filesystem::exists(dir.file("a.tokens")));
}

TEST(Tokenize, Messages) {
  TempDir dir;
  const std::string text = dir.write("a.txt", "x");
  const std::string empty = dir.write("e.jsonl", "{\"text\":\"\"}\n");
  const auto error = [&](const std::string& input, const std::string& out) {
    return message_of<UserError>(
        [&] { tokenize_files(text_source({input}), FakeTokenizer(), dir.file(out), {}); });
  };
  EXPECT_EQ(error(text, "a.bin"),
            "output '" + dir.file("a.bin") + "': the name of a token file ends in .tokens");
  EXPECT_EQ(error(empty, "e.tokens"),
            dir.file("e.tokens") + ": the data holds no document with text");
  tokenize_files(text_source({text}), FakeTokenizer(), dir.file("sub/dir/a.tokens"), {});
  EXPECT_EQ(error(dir.file("sub/dir/a.tokens"), "b.tokens"),
            dir.file("sub/dir/a.tokens") + ": already a token file; name text to tokenise");
  const LockFile held(dir.file("l.tokens.lock"));
  EXPECT_THAT(error(text, "l.tokens"), HasSubstr("in use by process"));
}

TEST(Tokenize, CacheIsKeyedByContentsFieldsAndTokenizer) {
  TempDir dir;
  const auto path_of = [&](const SourceSpec& source, const Tokenizer& tokenizer) {
    return cached_token_file(source, tokenizer, dir.file("cache/deep"), {});
  };
  SourceSpec source = text_source({dir.write("a.txt", "one--two")});
  const auto first = path_of(source, FakeTokenizer());
  const auto written = std::filesystem::last_write_time(first);
  EXPECT_EQ(path_of(text_source({dir.write("same.txt", "one--two")}), FakeTokenizer()), first);
  EXPECT_EQ(std::filesystem::last_write_time(first), written);
  EXPECT_NE(path_of(source, FakeTokenizer(true)), first);
  EXPECT_NE(path_of(source, FakeTokenizer(false, 8)), first);
  source.document_separator = "--";
  EXPECT_NE(path_of(source, FakeTokenizer()), first);
  EXPECT_EQ(TokenFile(path_of(source, FakeTokenizer())).num_documents(), 2);
  source.document_separator = "";
  dir.write("a.txt", "one--tw0");
  EXPECT_NE(path_of(source, FakeTokenizer()), first);
  SourceSpec tokens = text_source({first.string()});
  EXPECT_EQ(path_of(tokens, FakeTokenizer()), first);
}

}  // namespace
}  // namespace thimble
