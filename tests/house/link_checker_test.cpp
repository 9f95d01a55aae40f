#include "tests/house/link_checker.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/base/text.h"
#include "tests/house/house_fixture.h"

namespace thimble::house {
namespace {

TEST(LinkGraph, LibrariesLinkWhatTheirFoldersInclude) {
  const Rooms rooms = own_rooms();
  const Targets targets = read_targets(read_listings(std::filesystem::current_path(), rooms));
  ASSERT_TRUE(targets.contains("thimble_base") && targets.contains("thimble"));
  Exceptions exceptions = own_exceptions("link_exceptions.txt");
  EXPECT_EQ(join(check_links(own_tree(), targets, rooms, exceptions), "\n"), "");
}

TEST(LinkChecker, TargetsAreReadAsCMakeMakesThem) {
  const Targets targets = read_targets(
      {{"data/CMakeLists.txt",
        "# thimble_library(no SOURCES no.cpp)\n"
        "set(more b.cpp  # why\n  deep/c.cpp)\n"
        "thimble_library(data\n  SOURCES a.cpp ${more} $<IF:$<BOOL:${X}>,on.cpp,off.cpp>\n"
        "  LINK thimble_base fmt::fmt thimble::dnnl PRIVATE_LINK thimble_io ZLIB::ZLIB)\n"
        "thimble_isa_sources(data fast.cpp EXACT)\n"
        "if(A AND (B OR C))\n"
        "  target_link_libraries(thimble_data PRIVATE MPI::MPI thimble_a PUBLIC thimble_b "
        "\"${L}\")\n"
        "endif()\n"
        "add_executable(tool \"${PROJECT_SOURCE_DIR}/models/tool.cpp\")\n"
        "target_link_libraries(tool thimble_data)\n"
        "thimble_cuda_library(data_cuda SOURCES cuda/k.cu)\n"
        "thimble_bench(bench_data SOURCES bench.cpp LINK thimble_data)\n"}});
  const auto text = [&targets](const std::string& name) {
    const Target& target = targets.at(name);
    return fmt::format("{}:{} {} | {} | {}", target.file, target.line,
                       fmt::join(target.sources, " "), fmt::join(target.public_links, " "),
                       fmt::join(target.private_links, " "));
  };
  EXPECT_EQ(text("thimble_data"),
            "data/CMakeLists.txt:4 data/a.cpp data/b.cpp data/deep/c.cpp data/on.cpp data/off.cpp "
            "data/fast.cpp | thimble_b thimble_base | thimble_a thimble_io");
  EXPECT_EQ(text("tool"), "data/CMakeLists.txt:11 models/tool.cpp | thimble_data | ");
  EXPECT_EQ(text("thimble_data_cuda"), "data/CMakeLists.txt:13 data/cuda/k.cu |  | ");
  EXPECT_EQ(text("bench_data"), "data/CMakeLists.txt:14 data/bench.cpp | thimble_data | ");
  EXPECT_EQ(targets.size(), 4u);
}

TEST(LinkChecker, OnlyListingsOfTheProgramAreRead) {
  const BadTree tree;
  for (const char* folder : {"data/x", "tests/data", "build", "elsewhere", "launcher"}) {
    tree.write(fmt::format("{}/CMakeLists.txt", folder), "x");
  }
  tree.write("CMakeLists.txt");
  std::string read;
  const Rooms rooms = Rooms::parse("data:\nlauncher/run: data\ntests: *\n");
  for (const auto& [path, text] : read_listings(tree.root(), rooms)) read += path + " ";
  EXPECT_EQ(read, "data/x/CMakeLists.txt launcher/CMakeLists.txt ");
}

/// A house in which `middle` includes `low`, and `high` both.
class LinkCheck {
 public:
  Lines run(const std::string& middle_link, const std::string& high_link,
            const std::string& low_link = "", const std::string& exceptions_text = "") {
    const Rooms rooms = Rooms::parse("bare:\nlow: bare\nmiddle: low\nhigh: bare low middle\n");
    const auto including = [](const std::string& path) {
      return parse_source("#include \"" + path + "\"\n");
    };
    const Tree tree{{"bare/only.h", {}},
                    {"low/low.h", including("bare/only.h")},
                    {"low/low.cpp", including("low/low.h")},
                    {"low/other.h", {}},
                    {"middle/middle.h", including("low/low.h")},
                    {"middle/middle.cpp", including("middle/middle.h")},
                    {"high/high.cpp", parse_source("#include \"middle/middle.h\"\n#include "
                                                   "\"low/low.h\"\n#include \"low/other.h\"\n")}};
    const Targets targets = read_targets(
        {{"low/CMakeLists.txt", "thimble_library(low SOURCES low.cpp " + low_link + ")"},
         {"middle/CMakeLists.txt", "thimble_library(mid SOURCES middle.cpp " + middle_link + ")"},
         {"high/CMakeLists.txt", "thimble_library(high SOURCES high.cpp " + high_link + ")"}});
    Exceptions exceptions("list.txt", exceptions_text);
    return check_links(tree, targets, rooms, exceptions);
  }
};

TEST(LinkChecker, PublicLinksBackIncludesOfThoseWhoLinkThem) {
  EXPECT_EQ(LinkCheck().run("LINK thimble_low", "LINK thimble_mid"), Lines{});
  EXPECT_EQ(LinkCheck().run("LINK thimble_low", "PRIVATE_LINK thimble_mid"), Lines{});
}

TEST(LinkChecker, AnIncludeThatNothingLinksIsFound) {
  EXPECT_EQ(LinkCheck().run("PRIVATE_LINK thimble_low", "LINK thimble_mid"),
            (Lines{"high/CMakeLists.txt:1: thimble_high includes low (high/high.cpp:2) but does "
                   "not link it"}));
  EXPECT_EQ(LinkCheck().run("", "LINK thimble_low thimble_mid"),
            (Lines{"middle/CMakeLists.txt:1: thimble_mid includes low (middle/middle.h:1) but does "
                   "not link it"}));
}

TEST(LinkChecker, ALinkAgainstTheArrowsIsFound) {
  EXPECT_EQ(LinkCheck().run("LINK thimble_low", "LINK thimble_mid", "PRIVATE_LINK thimble_high"),
            (Lines{"low/CMakeLists.txt:1: thimble_low links thimble_high, but low must not include "
                   "high"}));
}

TEST(LinkChecker, ExceptionsExcuseOneRoomAndMustBeNeeded) {
  EXPECT_EQ(LinkCheck().run("", "LINK thimble_low thimble_mid", "",
                            "thimble_mid: low: why\nthimble_high: low: gone\n"),
            (Lines{"list.txt: thimble_high: low needs no leave, remove the entry"}));
}

TEST(LinkChecker, ATargetHasOneRoomAndAHeaderTheTargetOfItsSource) {
  const Rooms rooms = Rooms::parse("low:\nhigh: low\n");
  const Tree tree{
      {"low/a.cpp", {}}, {"low/b.cpp", {}}, {"high/c.cpp", parse_source("#include \"low/b.h\"\n")}};
  Exceptions none("list.txt", "");
  EXPECT_EQ(
      check_links(tree,
                  read_targets({{"CMakeLists.txt",
                                 "thimble_library(a SOURCES low/a.cpp)\n"
                                 "thimble_library(b SOURCES low/b.cpp)\n"
                                 "thimble_library(c SOURCES high/c.cpp LINK thimble_a)\n"}}),
                  rooms, none),
      (Lines{"CMakeLists.txt:3: thimble_c includes low (high/c.cpp:1) but does not link it"}));
  EXPECT_EQ(
      check_links(
          tree,
          read_targets({{"CMakeLists.txt", "thimble_library(all SOURCES low/b.cpp high/c.cpp)\n"}}),
          rooms, none),
      (Lines{"CMakeLists.txt:1: thimble_all has sources of high and low"}));
}

}  // namespace
}  // namespace thimble::house
