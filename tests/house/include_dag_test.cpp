#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "core/base/error.h"
#include "core/base/text.h"
#include "tests/house/house_fixture.h"

namespace thimble::house {
namespace {

TEST(IncludeDag, EveryArrowIsAllowed) {
  EXPECT_EQ(join(check_arrows(own_tree(), own_rooms()), "\n"), "");
}

TEST(IncludeDag, EveryFileOfCppIsRead) {
  EXPECT_EQ(join(check_suffixes(std::filesystem::current_path(), own_rooms()), "\n"), "");
}

TEST(IncludeDag, HeadersKeepDependenciesToThemselves) {
  Exceptions exceptions = own_exceptions("foreign_headers.txt");
  const auto known = parse_known_headers(read_text("tests/house/known_headers.txt"));
  EXPECT_EQ(join(check_foreign_headers(own_tree(), own_rooms(), known, exceptions), "\n"), "");
}

// A step is the same for every model: what runs it sees none, by whatever way of includes.
TEST(IncludeDag, TrainingKnowsNoModel) {
  const Tree tree = own_tree();
  const Rooms rooms = own_rooms();
  std::vector<std::string> open{"train/batch_feed.cpp",     "train/batch_sums.cpp",
                                "train/fp8_check.cpp",      "train/fused_update.cpp",
                                "train/state_forecast.cpp", "train/train_engine.cpp",
                                "train/micro_batches.cpp",  "train/weight_loading.cpp"};
  std::set<std::string> seen(open.begin(), open.end());
  for (const std::string& path : open) EXPECT_TRUE(tree.contains(path)) << path;
  while (!open.empty()) {
    const std::string path = open.back();
    open.pop_back();
    EXPECT_NE(rooms.room_of(path), "models") << path;
    const auto file = tree.find(path);
    if (file == tree.end()) continue;
    for (const Include& include : file->second.includes) {
      if (seen.insert(include.target).second) open.push_back(include.target);
    }
  }
  EXPECT_TRUE(seen.contains("core/nn/trainable_model.h"));
}

TEST(IncludeDag, NoCycles) {
  EXPECT_EQ(join(check_cycles(own_tree()), "\n"), "");
}

TEST(IncludeDag, LongFilesHaveAReason) {
  const auto allowed = parse_long_files(read_text("tests/house/long_files.txt"));
  EXPECT_EQ(join(check_lengths(own_tree(), allowed), "\n"), "");
}

/// A house of few rooms.
Rooms few_rooms() {
  return Rooms::parse(
      "# a comment\n"
      "core/base:\n"
      "core/io: core/base\n"
      "\n"
      "data: core\n"
      "launcher/run: core/base\n"
      "launcher/run/deep: launcher/run\n"
      "launcher/main.cpp: data launcher\n"
      "bench: *\n"
      "tests: *\n");
}

TEST(Rooms, TheTableIsReadAsWritten) {
  const Rooms rooms = few_rooms();
  std::string arrows;
  for (const std::string& from : rooms.names()) {
    for (const std::string& to : rooms.names()) {
      if (from != to && rooms.may_include(from, to)) arrows += from + ">" + to + " ";
    }
  }
  EXPECT_EQ(arrows,
            "core/io>core/base data>core/base data>core/io launcher/run>core/base "
            "launcher/run/deep>launcher/run launcher/main.cpp>data launcher/main.cpp>launcher/run "
            "launcher/main.cpp>launcher/run/deep bench>core/base bench>core/io bench>data "
            "bench>launcher/run bench>launcher/run/deep bench>launcher/main.cpp tests>core/base "
            "tests>core/io tests>data tests>launcher/run tests>launcher/run/deep "
            "tests>launcher/main.cpp ");
  EXPECT_TRUE(rooms.may_include("data", "data"));
  EXPECT_EQ(rooms.room_of("core/io/cpu/a.h"), "core/io");
  EXPECT_EQ(rooms.room_of("launcher/run/deep/a.h"), "launcher/run/deep");
  EXPECT_EQ(rooms.room_of("launcher/running/a.h"), "");
  EXPECT_EQ(rooms.room_of("launcher/main.cpp"), "launcher/main.cpp");
  EXPECT_EQ(rooms.room_of("core/a.h"), "");
  EXPECT_TRUE(rooms.has_top_folder("launcher"));
  EXPECT_FALSE(rooms.has_top_folder("fmt"));
}

TEST(Rooms, ATableWithoutOrderIsRefused) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      Rooms::parse(text);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message("a: b\nb:\n"), "rooms.txt: a names b, which is no room above it");
  EXPECT_EQ(message("a: a\n"), "rooms.txt: a names a, which is no room above it");
  EXPECT_EQ(message("ab:\nc: a\n"), "rooms.txt: c names a, which is no room above it");
  EXPECT_EQ(message("a:\na:\n"), "rooms.txt: a has two lines");
  EXPECT_EQ(message("a\n"), "rooms.txt: 'a': expected 'room: rooms it may include'");
}

TEST(Exceptions, EachHasItsReasonAndItsUse) {
  Exceptions list("list.txt", "# why\n\na.h: A::f: hard\nb.h: operator bool: old: very\n");
  EXPECT_FALSE(list.excuses("a.h", "f"));
  EXPECT_TRUE(list.excuses("a.h", "A::f"));
  EXPECT_EQ(list.stale(), (Lines{"list.txt: b.h: operator bool needs no leave, remove the entry"}));
  EXPECT_TRUE(list.excuses("b.h", "operator bool"));
  EXPECT_EQ(list.stale(), Lines{});
  EXPECT_THROW(Exceptions("x", "a.h: f\n"), UserError);
  EXPECT_THROW(Exceptions("x", "a.h: f:  \n"), UserError);
  EXPECT_THROW(Exceptions("x", "a.h: f: x\na.h: f: y\n"), UserError);
}

TEST(IncludeChecker, ForbiddenPairsOfRoomsAreFound) {
  const auto breaches = [](const std::string& from, const std::string& to) {
    Lines found =
        check_arrows({{to, {}}, {from, parse_source("\n#include \"" + to + "\"\n")}}, few_rooms());
    std::erase_if(found, [](const std::string& line) { return line.starts_with("rooms.txt"); });
    return found;
  };
  EXPECT_EQ(breaches("data/a.cpp", "core/io/b.h"), Lines{});
  EXPECT_EQ(breaches("data/a.cpp", "data/x/b.cuh"), Lines{});
  EXPECT_EQ(breaches("core/io/a.h", "data/b.h"),
            (Lines{"core/io/a.h:2: core/io must not include data (\"data/b.h\")"}));
  EXPECT_EQ(breaches("launcher/run/a.cpp", "launcher/run/deep/b.h"),
            (Lines{"launcher/run/a.cpp:2: launcher/run must not include launcher/run/deep "
                   "(\"launcher/run/deep/b.h\")"}));
  EXPECT_EQ(breaches("data/a.cu", "tests/b.h"),
            (Lines{"data/a.cu:2: data must not include tests (\"tests/b.h\")"}));
  EXPECT_EQ(breaches("tests/a.cpp", "bench/b.h"),
            (Lines{"tests/a.cpp:2: tests must not include bench (\"bench/b.h\")"}));
}

TEST(IncludeChecker, ArrowsOfTheDesign) {
  const Rooms rooms = own_rooms();
  EXPECT_TRUE(rooms.may_include("core/nn", "core/autograd"));
  EXPECT_FALSE(rooms.may_include("core/autograd", "core/nn"));
  EXPECT_FALSE(rooms.may_include("core/ops", "core/autograd"));
  EXPECT_FALSE(rooms.may_include("core/io", "core/device"));
  EXPECT_FALSE(rooms.may_include("core/device", "core/io"));
  EXPECT_TRUE(rooms.may_include("optim", "core/io"));
  EXPECT_FALSE(rooms.may_include("optim", "models"));
  EXPECT_FALSE(rooms.may_include("parallel", "checkpoint"));
  EXPECT_FALSE(rooms.may_include("checkpoint", "optim"));
  EXPECT_FALSE(rooms.may_include("launcher/run", "launcher/job"));
  EXPECT_FALSE(rooms.may_include("launcher/job", "launcher/run"));
  EXPECT_TRUE(rooms.may_include("launcher/job", "models"));
  EXPECT_FALSE(rooms.may_include("launcher/job", "parallel"));
  EXPECT_FALSE(rooms.may_include("launcher/launch", "models"));
  EXPECT_TRUE(rooms.may_include("bench", "launcher/commands"));
  EXPECT_FALSE(rooms.may_include("launcher/commands", "bench"));
  EXPECT_FALSE(rooms.may_include("launcher/commands", "tests"));
}

TEST(IncludeChecker, PathsMustStartAtTheRootAndNameHeaders) {
  const BadTree tree;
  tree.write("data/b.h");
  tree.write("data/b.cpp");
  tree.include("data/a.h", "b.h");
  tree.include("data/c.h", "../data/b.h");
  tree.include("data/d.h", "data/b.cpp");
  tree.write("data/e.h", "#include kHeader\n");
  EXPECT_EQ(check_arrows(tree.read(), Rooms::parse("data:\n")),
            (Lines{"data/a.h:2: \"b.h\" is no header of the project, seen from its root",
                   "data/c.h:2: \"../data/b.h\" is no header of the project, seen from its root",
                   "data/d.h:2: \"data/b.cpp\" is no header of the project, seen from its root",
                   "data/e.h:1: \"kHeader\" is no header of the project, seen from its root"}));
}

TEST(IncludeChecker, FilesWithoutRoomsRoomsWithoutFilesAndSkippedFolders) {
  const BadTree tree;
  tree.write("utilities/a.h");
  tree.write("core/a.h");
  tree.write("main.cpp");
  tree.write("data/a.h");
  tree.write("build/x/bad.h");
  tree.write(".cache/bad.h");
  tree.write("runs/x/bad.cpp");
  EXPECT_EQ(
      check_arrows(tree.read(), Rooms::parse("core/io:\ndata:\n")),
      (Lines{"core/a.h:1: lies in no room of rooms.txt", "main.cpp:1: lies in no room of rooms.txt",
             "utilities/a.h:1: lies in no room of rooms.txt",
             "rooms.txt: core/io is empty, remove its line"}));
}

TEST(IncludeChecker, CppUnderAnotherSuffixIsRefused) {
  const BadTree tree;
  for (const char* suffix :
       {"hpp", "cc", "cxx", "hh", "inl", "ipp", "tpp", "c++", "C", "H", "CPP", "c"}) {
    tree.write(fmt::format("data/bad.{}", suffix));
  }
  tree.write("data/other", "x\n  # include <vector>\n");
  tree.write("data/list.txt", "#include \"data/a.h\"\n");
  for (const char* good : {"h", "cpp", "cu", "cuh", "md"}) {
    tree.write(fmt::format("data/good.{}", good), "#include <vector>\n");
  }
  tree.write("data/CMakeLists.txt", "# include what is ours\n#include\n");
  tree.write("elsewhere/a.hpp");
  Lines found = check_suffixes(tree.root(), few_rooms());
  EXPECT_EQ(found.size(), 14u) << join(found, "\n");
  std::sort(found.begin(), found.end());
  EXPECT_EQ(found.front(),
            "data/bad.C: C++ under the suffix \".C\"; only .h, .cpp, .cu and .cuh are read here");
  EXPECT_EQ(found.back(),
            "data/other: C++ under the suffix \"\"; only .h, .cpp, .cu and .cuh are read here");
}

TEST(IncludeChecker, HeadersOfDependenciesNeedAReason) {
  const SourceFile user = parse_source("#include <vector>\n#include <zlib.h>\n");
  const Tree tree{{"data/a.h", user},
                  {"data/b.cuh", user},
                  {"data/c.cpp", user},
                  {"tests/d.h", user},
                  {"data/e.h", parse_source("#include <core/io/b.h>\n#include \"x.h\"\n")}};
  Exceptions exceptions("list.txt", "data/a.h: zlib.h: why\ndata/a.h: fmt/core.h: gone\n");
  const auto known = parse_known_headers("# all\nvector string\n");
  EXPECT_EQ(check_foreign_headers(tree, few_rooms(), known, exceptions),
            (Lines{"data/b.cuh:2: <zlib.h> is neither of the C++ library nor of the system; "
                   "headers of dependencies belong into sources",
                   "list.txt: data/a.h: fmt/core.h needs no leave, remove the entry"}));
}

TEST(IncludeChecker, CyclesOfFilesAndOfFolders) {
  const BadTree tree;
  tree.include("data/a.h", "data/b.h");
  tree.include("data/b.h", "data/c.h");
  tree.include("data/c.h", "data/a.h");
  tree.include("launcher/run/a.cpp", "launcher/job/b.h");
  tree.include("launcher/job/c.cpp", "launcher/run/d.h");
  tree.write("launcher/job/b.h");
  tree.write("launcher/run/d.h");
  tree.include("models/self.h", "models/self.h");
  EXPECT_EQ(check_cycles(tree.read()),
            (Lines{"cycle: data/a.h -> data/b.h -> data/c.h -> data/a.h",
                   "cycle: models/self.h -> models/self.h",
                   "folder cycle: launcher/job -> launcher/run -> launcher/job"}));
}

TEST(IncludeChecker, LongFilesNeedAReasonAndReasonsALongFile) {
  const BadTree tree;
  const auto lines = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "\n";
    return text;
  };
  tree.write("data/at_limit.cpp", lines(400));
  tree.write("data/long.cpp", lines(400) + "x");
  tree.write("data/excused.cpp", lines(500));
  EXPECT_EQ(
      check_lengths(tree.read(), parse_long_files("# a comment\n\ndata/excused.cpp: a table\n"
                                                  "data/at_limit.cpp: no longer\n"
                                                  "data/gone.cpp: gone\n")),
      (Lines{"data/long.cpp: 401 lines, at most 400 without a reason in long_files.txt",
             "long_files.txt: data/at_limit.cpp is not longer than 400 lines, remove the entry",
             "long_files.txt: data/gone.cpp is not longer than 400 lines, remove the entry"}));
  EXPECT_THROW(parse_long_files("data/x.cpp\n"), UserError);
  EXPECT_THROW(parse_long_files("data/x.cpp:  \n"), UserError);
}

TEST(IncludeChecker, WhatCountsAsAnInclude) {
  const SourceFile file = parse_source(
      "#include \"a.h\"\n"
      "  #  include  \"b.h\"  // why\n"
      "#include <vector>\n"
      "#include <core/base/error.h>\n"
      "// #include \"comment.h\"\n"
      "/* #include \"block.h\"\n"
      "#include \"block2.h\" */\n"
      "// not the start of a block: /*\n"
      "const char* glob = \"\\\"data/*\"; char quote = '\"';\n"
      "#include \"c.h\"\n"
      "const char* text = \"#include\";\n"
      "#include NAME\n"
      "auto raw = R\"x(\n#include \"raw.h\")x\";\n"
      "#include_next \"d.h\"");
  std::string found;
  for (const Include& include : file.includes) {
    found += fmt::format("{}{}:{} ", include.angles ? "<" : "", include.target, include.line);
  }
  EXPECT_EQ(found, "a.h:1 b.h:2 <vector:3 <core/base/error.h:4 c.h:10 NAME:12 d.h:15 ");
  EXPECT_EQ(file.num_lines, 15);
  EXPECT_EQ(parse_source("").num_lines, 0);
}

}  // namespace
}  // namespace thimble::house
