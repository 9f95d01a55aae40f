// Reading .txt, .jsonl and .jsonl.gz: contents, detection, and every message.
#include <gmock/gmock.h>
#include <zlib.h>

#include "data/document_reader.h"
#include "data/line_reader.h"
#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TempDir;

std::vector<std::string> read_all(SourceSpec source, std::vector<std::string>* warnings = nullptr) {
  const std::vector<std::string> files = expand_paths(source.paths);
  source.format = resolve_format(source, files);
  DocumentReader reader(source, files, [&](const std::string& line) {
    if (warnings != nullptr) warnings->push_back(line);
  });
  std::vector<std::string> documents;
  bool open = false;
  while (auto piece = reader.next()) {
    EXPECT_EQ(piece->begins, !open);
    if (piece->begins) documents.emplace_back();
    if (!piece->prompt.empty()) documents.back() += piece->prompt + "|";
    documents.back() += piece->text;
    open = !piece->ends;
  }
  EXPECT_FALSE(open);
  EXPECT_EQ(reader.bytes_done(), reader.bytes_total());
  return documents;
}

SourceSpec source_of(std::vector<std::string> paths) {
  SourceSpec source;
  source.paths = std::move(paths);
  return source;
}

std::string error_of(const SourceSpec& source) {
  return message_of<UserError>([&] { read_all(source); });
}

void write_gzip(const std::string& path, const std::string& text) {
  gzFile file = gzopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())),
            static_cast<int>(text.size()));
  ASSERT_EQ(gzclose(file), Z_OK);
}

TEST(CorpusReader, TextFileIsOneDocumentWithoutByteOrderMark) {
  TempDir dir;
  EXPECT_THAT(read_all(source_of({dir.write("a.txt", "\xEF\xBB\xBFone\r\ntwo\n")})),
              ElementsAre("one\r\ntwo\n"));
}

TEST(CorpusReader, SeparatorSplitsAndEmptyDocumentsVanish) {
  TempDir dir;
  SourceSpec source = source_of(
      {dir.write("a.txt", "\n--\none\n--\n\n--\n\n--\ntwo\n--\n"), dir.write("b.txt", "x")});
  source.document_separator = "\n--\n";
  EXPECT_THAT(read_all(source), ElementsAre("one", "two", "x"));
}

TEST(CorpusReader, InvalidUtf8IsKeptAndWarnedOfOnce) {
  TempDir dir;
  std::vector<std::string> warnings;
  const auto documents = read_all(source_of({dir.write("a.txt", "ab\xFF"),
                                             dir.write("b.txt", "\xC0"), dir.write("c.txt", "ok")}),
                                  &warnings);
  EXPECT_THAT(documents, ElementsAre("ab\xFF", "\xC0", "ok"));
  EXPECT_THAT(warnings,
              ElementsAre(dir.file("a.txt") +
                          ": byte 2 is not valid UTF-8; such bytes are kept as they are (Latin-1? "
                          "iconv -f LATIN1 -t UTF-8 " +
                          dir.file("a.txt") + " > converted.txt)"));
}

TEST(CorpusReader, LargeTextComesInPiecesCutBetweenWords) {
  TempDir dir;
  std::string text;
  while (text.size() < 2 * kPieceBytes + 100000) text += "word\xC3\xA9 and more, ";
  const std::string unbroken(kPieceBytes + kPieceBytes / 2, '\x80');
  SourceSpec source = source_of({dir.write("a.txt", text), dir.write("b.txt", unbroken)});
  source.format = SampleFormat::kText;
  const auto pieces_of = [&](const SafeCutFn& is_safe_cut) {
    DocumentReader reader(source, source.paths, {}, is_safe_cut);
    std::vector<DocumentPiece> pieces;
    while (auto piece = reader.next()) pieces.push_back(std::move(*piece));
    return pieces;
  };
  const auto pieces = pieces_of([](std::string_view left, std::string_view right) {
    return left.ends_with("and") && right.starts_with(" more");
  });
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_EQ(pieces[0].text + pieces[1].text + pieces[2].text, text);
  EXPECT_EQ(pieces[3].text, unbroken);
  EXPECT_TRUE(pieces[0].begins && !pieces[0].ends && !pieces[1].begins && !pieces[1].ends);
  EXPECT_TRUE(!pieces[2].begins && pieces[2].ends && pieces[3].begins && pieces[3].ends);
  EXPECT_TRUE(pieces[0].text.ends_with(" and") && pieces[1].text.starts_with(" more"));
  EXPECT_EQ(pieces_of({}).size(), 2u);
  EXPECT_EQ(pieces_of([](auto, auto) { return false; }).size(), 2u);
}

TEST(CorpusReader, OtherEncodingsAndFormatsAreNamedWithTheWayToConvertThem) {
  TempDir dir;
  const auto refused = [&](const std::string& name, const std::string& content) {
    const SourceSpec source = source_of({dir.write(name, content)});
    return message_of<UserError>([&] { read_all(source); });
  };
  const std::string utf16 = std::string("h\0e\0l\0l\0o\0 \0y\0o\0u\0", 18);
  for (const char* name : {"a.txt", "a.jsonl"}) {
    EXPECT_THAT(refused(name, "\xFF\xFE" + utf16), HasSubstr("iconv -f UTF-16 "));
    EXPECT_THAT(refused(name, utf16), HasSubstr("iconv -f UTF-16LE "));
    EXPECT_THAT(refused(name, '\0' + utf16.substr(0, 17)), HasSubstr("iconv -f UTF-16BE "));
  }
  EXPECT_THAT(refused("b.txt", "PAR1\x15\x04"), HasSubstr("Parquet"));
  EXPECT_THAT(refused("c.txt", "\x1F\x8B\x08"), HasSubstr("zcat"));
  EXPECT_THAT(refused("d.jsonl", "{\"text\": \"caf\xE9\"}"), HasSubstr("iconv -f LATIN1"));
  EXPECT_THAT(refused("e.jsonl", "{\n  \"text\": \"a\"\n}"), HasSubstr("jq -c . "));
  EXPECT_THAT(refused("f.jsonl", "[\n  {\"text\": \"a\"}\n]"), HasSubstr("jq -c '.[]' "));
  EXPECT_THAT(refused("g.jsonl", "text,label\na,1\n"), HasSubstr("csv.DictReader"));
  EXPECT_THAT(refused("h.csv", "text,label\na,1\n"), HasSubstr("csv.DictReader"));
  EXPECT_THAT(refused("i.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\",\"x\":1e999}\n"),
              AllOf(HasSubstr("i.jsonl:2: "), HasSubstr("1e999")));
}

TEST(CorpusReader, BadLinesAreErrorsOrCounted) {
  TempDir dir;
  SourceSpec source = source_of({dir.write(
      "a.jsonl",
      "not JSON\n{\"text\":\"one\"}\n{\"text\":1}\n{\"other\":\"\"}\n[1]\n{\"text\":\"two\"}\n{")});
  EXPECT_THAT(message_of<UserError>([&] { read_all(source); }), HasSubstr("a.jsonl:1: "));
  source.skip_bad_lines = true;
  std::vector<std::string> warnings;
  EXPECT_THAT(read_all(source, &warnings), ElementsAre("one", "two"));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], AllOf(HasSubstr("a.jsonl:1: "), HasSubstr("such lines are skipped")));
  source.format = resolve_format(source, source.paths);
  DocumentReader reader(source, source.paths, {});
  while (reader.next()) {
  }
  EXPECT_EQ(reader.bad_lines(), 5);
}

TEST(CorpusReader, ASeparatorThatNeverOccursIsSaid) {
  TempDir dir;
  SourceSpec source = source_of({dir.write("a.txt", "one\r\n\r\ntwo"), dir.write("b.txt", "x")});
  source.document_separator = "\n\n";
  std::vector<std::string> warnings;
  EXPECT_EQ(read_all(source, &warnings).size(), 2u);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], AllOf(HasSubstr("never occurs"), HasSubstr("dos2unix")));
  source.document_separator = "\r\n\r\n";
  warnings.clear();
  EXPECT_THAT(read_all(source, &warnings), ElementsAre("one", "two", "x"));
  EXPECT_EQ(warnings.size(), 1u);  // of b.txt
}

TEST(CorpusReader, JsonLinesOfText) {
  TempDir dir;
  const auto path = dir.write("a.jsonl",
                              "\xEF\xBB\xBF{\"text\": \"a\\u00e9\"}\r\n\n  "
                              "\t\n{\"text\":\"\",\"id\":1}\n{\"text\":\"last\"}");
  EXPECT_THAT(read_all(source_of({path})), ElementsAre("a\xC3\xA9", "", "last"));
}

TEST(CorpusReader, PromptAndCompletionWithMappedFields) {
  TempDir dir;
  SourceSpec source = source_of({dir.write("a.jsonl", "{\"q\":\"2+2\",\"a\":\"4\"}\n")});
  source.fields.prompt = "q";
  source.fields.completion = "a";
  EXPECT_THAT(read_all(source), ElementsAre("2+2|4"));
}

TEST(CorpusReader, GzipEqualsPlain) {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 5000; ++i)
    lines += fmt::format("{{\"text\": \"line {} {}\"}}\n", i, std::string(200, 'x'));
  write_gzip(dir.file("a.jsonl.gz"), lines);
  EXPECT_EQ(read_all(source_of({dir.file("a.jsonl.gz")})),
            read_all(source_of({dir.write("b.jsonl", lines)})));
}

TEST(CorpusReader, DamagedGzipIsAMessage) {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 3000; ++i) lines += fmt::format("{{\"text\": \"{}\"}}\n", i * 7919);
  write_gzip(dir.file("a.jsonl.gz"), lines);
  const std::string whole = testing::read_bytes(dir.file("a.jsonl.gz"));
  dir.write("cut.jsonl.gz", whole.substr(0, whole.size() / 2));
  EXPECT_THAT(error_of(source_of({dir.file("cut.jsonl.gz")})),
              HasSubstr("damaged or incomplete gzip file"));
  std::string flipped = whole;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 0x55);
  dir.write("flip.jsonl.gz", flipped);
  EXPECT_THROW(read_all(source_of({dir.file("flip.jsonl.gz")})), UserError);
}

TEST(CorpusReader, GlobsAreSortedAndLiteralNamesWin) {
  TempDir dir;
  dir.write("p10.txt", "10");
  dir.write("p2.txt", "2");
  dir.write("[x].txt", "brackets");
  EXPECT_THAT(read_all(source_of({dir.file("p*.txt"), dir.file("[x].txt")})),
              ElementsAre("10", "2", "brackets"));
}

TEST(CorpusReader, MessagesOfPaths) {
  TempDir dir;
  const auto path_error = [&](const std::string& name) {
    return message_of<UserError>([&] { expand_paths({dir.file(name)}); });
  };
  EXPECT_EQ(path_error("none*.txt"), dir.file("none*.txt") + ": no such file");
  dir.write("a.parquet", "PAR1");
  EXPECT_THAT(path_error("a.parquet"), HasSubstr("Parquet is not read; convert it: python3 -c"));
  dir.write("a.xyz", "x");
  EXPECT_EQ(path_error("a.xyz"), dir.file("a.xyz") +
                                     ": unknown kind of data file; allowed: .txt, .jsonl, .json, "
                                     "both also with .gz or .zst, .tokens");
  EXPECT_THAT(path_error("."), HasSubstr("is a directory"));
  EXPECT_EQ(message_of<UserError>([] { expand_paths({"no-such-folder/*.txt"}); }),
            "no-such-folder/*.txt: no such file");
  EXPECT_EQ(message_of<UserError>([] { expand_paths({}); }), "data: no path is given");
}

TEST(CorpusReader, MessagesOfLines) {
  TempDir dir;
  const auto line_error = [&](const std::string& text, SampleFormat format = SampleFormat::kAuto) {
    SourceSpec source = source_of({dir.write("d.jsonl", text)});
    source.format = format;
    const std::string message = error_of(source);
    const std::string prefix = dir.file("d.jsonl") + ":";
    EXPECT_TRUE(message.starts_with(prefix)) << message;
    return message.substr(std::min(prefix.size(), message.size()));
  };
  EXPECT_EQ(line_error(""), " the file is empty");
  EXPECT_EQ(line_error("\n \n"), " the file is empty");
  EXPECT_EQ(line_error("", SampleFormat::kText), " the file is empty");
  EXPECT_EQ(line_error("{\"text\":\"a\"}\n{\"text\" 3}\n"),
            "2: not valid JSON at byte 9, near '3}'");
  EXPECT_EQ(line_error("[1]"),
            "1: a JSON array; each line must be one object: jq -c '.[]' converts");
  EXPECT_EQ(line_error("7"), "1: a JSON number; each line must be an object");
  EXPECT_EQ(line_error("{\"text\":3}"), "1: field 'text' is number, a string is needed");
  EXPECT_EQ(line_error("{\"question\":\"a\",\"answer\":\"b\"}"),
            "1: cannot tell the format: no 'text', no 'prompt' with 'completion', no 'messages', "
            "no 'conversations' and no "
            "'instruction' with 'output'; the line has: question, answer; map them in fields (on a "
            "command line: "
            "--field-prompt, --field-completion, --field-text)");
  EXPECT_EQ(line_error("{\"text\":\"\",\"prompt\":\"\",\"completion\":\"\"}"),
            "1: the line has both 'text' and 'prompt' with 'completion'; set format to text or "
            "prompt_completion");
  EXPECT_EQ(line_error("{\"text\":\"\"}\n{\"prompt\":\"\",\"completion\":\"\"}"),
            "2: this line looks like format 'prompt_completion', the lines before like 'text'; set "
            "format");
  EXPECT_EQ(line_error("{\"prompt\":\"\"}", SampleFormat::kPromptCompletion),
            "1: no field 'completion'; the line has: prompt; map it in fields");
  std::string late;
  for (int i = 0; i < 20; ++i) late += "{\"text\":\"a\"}\n";
  EXPECT_EQ(line_error(late + "{}"), "21: no field 'text'; the line has: none; map it in fields");
}

TEST(CorpusReader, MessagesOfFormats) {
  TempDir dir;
  const std::string text = dir.write("a.txt", "x");
  const std::string pairs = dir.write("b.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}");
  EXPECT_EQ(error_of(source_of({dir.write("empty.txt", "\xEF\xBB\xBF")})),
            dir.file("empty.txt") + ": the file is empty");
  EXPECT_THAT(error_of(source_of({text, pairs})), HasSubstr("cannot stand in one source with"));
  SourceSpec source = source_of({text});
  source.format = SampleFormat::kPromptCompletion;
  EXPECT_THAT(error_of(source), HasSubstr("a .txt file has no prompts"));
  EXPECT_THAT(error_of(source_of({text, dir.write("c.tokens", "")})),
              HasSubstr("is one .tokens file; 2 files are given"));
  EXPECT_EQ(parse_format("text", "job:1"), SampleFormat::kText);
  EXPECT_EQ(parse_format("chat", "job:1"), SampleFormat::kChat);
  EXPECT_EQ(message_of<UserError>([] { parse_format("csv", "job.toml:3:1"); }),
            "job.toml:3:1: format 'csv'; allowed: auto, text, prompt_completion, tokens, chat, "
            "sharegpt, alpaca");
}

TEST(CorpusReader, DeepJsonDoesNotOverflowTheStack) {
  TempDir dir;
  const std::string deep = "{\"text\":" + std::string(2000000, '[');
  EXPECT_THROW(read_all(source_of({dir.write("a.jsonl", deep)})), UserError);
}

}  // namespace
}  // namespace thimble
