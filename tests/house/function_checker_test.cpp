#include "tests/house/function_checker.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/text.h"
#include "tests/house/function_scanner.h"
#include "tests/house/house_fixture.h"

namespace thimble::house {
namespace {

TEST(Functions, AreShortAndTakeFewParameters) {
  Exceptions exceptions = own_exceptions("long_functions.txt");
  EXPECT_EQ(join(check_functions(own_tree(), own_rooms(), exceptions), "\n"), "");
}

/// "name/parameters@line+lines", blanks between.
std::string found(const std::string& text) {
  std::string result;
  for (const Function& function : find_functions(text)) {
    if (!result.empty()) result += ' ';
    result += fmt::format("{}/{}@{}+{}{}", function.name, function.num_params, function.line,
                          function.num_lines, function.is_kernel ? "k" : "");
  }
  return result;
}

TEST(FunctionScanner, FunctionsOfNamespacesAndClasses) {
  EXPECT_EQ(found("namespace a::b {\n"
                  "int f() { return 1; }\n"
                  "namespace {\n"
                  "void g(void) {}\n"
                  "}\n"
                  "class [[nodiscard]] alignas(8) C final : public Base<decltype(f(1))> {\n"
                  " public:\n"
                  "  int value() const noexcept(true) override { return 1; }\n"
                  "  struct Inner { void h(int) {} };\n"
                  "  static int no_body(int a);\n"
                  "  C& operator=(const C&) = delete;\n"
                  " private:\n"
                  "  int member_ = 3;\n"
                  "  std::vector<int> list_{1, 2};\n"
                  "  friend bool operator==(const C& a, const C& b) { return true; }\n"
                  "};\n"
                  "extern \"C\" { void i(int a) {} }\n"
                  "int Outer::Inner::j(int a)\n{\n  if (a) { return 1; }\n  return 2;\n}\n"
                  "enum class E : int { kA, kB };\n"
                  "}\n"),
            "f/0@2+1 g/0@4+1 C::value/0@8+1 C::Inner::h/1@9+1 C::operator==/2@15+1 i/1@17+1 "
            "Outer::Inner::j/1@18+5");
}

TEST(FunctionScanner, ConstructorsWithInitializers) {
  EXPECT_EQ(found("struct A {\n"
                  "  A(int a, B b) : Base<int>(a), b_{std::move(b)}, c_{[] { return 1; }()} {\n"
                  "    run();\n"
                  "  }\n"
                  "  explicit A(int a) noexcept : t_{a} {}\n"
                  "  A() try : a_(1) {} catch (...) {}\n"
                  "  ~A() {}\n"
                  "  std::function<void()> f_ = [] {};\n"
                  "};\n"
                  "A::A(A&& other) : Base<A>{other}, x_(other.x ? 1 : 2) {}\n"
                  "A::~A() {}\n"
                  "template <typename T>\nA<T>::A(T... t) : T(t)... {}\n"),
            "A::A/2@2+3 A::A/1@5+1 A::A/0@6+1 A::~A/0@7+1 A::f_/0@8+1 A::A/1@10+1 A::~A/0@11+1 "
            "A::A/1@13+1");
}

TEST(FunctionScanner, Operators) {
  EXPECT_EQ(found("struct A {\n"
                  "  int operator()(int a, int b) const { return 1; }\n"
                  "  int& operator[](int i) { return x; }\n"
                  "  explicit operator bool() const { return true; }\n"
                  "  operator std::vector<int>() const { return {}; }\n"
                  "  auto operator<=>(const A& a) const { return 0; }\n"
                  "  A& operator=(A&& a) noexcept { return *this; }\n"
                  "};\n"
                  "std::ostream& operator<<(std::ostream& out, const A& a) { return out; }\n"
                  "bool A::operator<(const A& a) const { return 1 < 2; }\n"
                  "long operator\"\"_kb(unsigned long long x) { return x; }\n"),
            "A::operator()/2@2+1 A::operator[]/1@3+1 A::operator bool/0@4+1 "
            "A::operator std::vector<int>/0@5+1 A::operator<=>/1@6+1 A::operator=/1@7+1 "
            "operator<</2@9+1 A::operator</1@10+1 operator\"\"_kb/1@11+1");
}

TEST(FunctionScanner, TemplatesAndConstraints) {
  EXPECT_EQ(
      found("template <typename T = std::vector<int>, int N = (3 > 2)>\n"
            "std::array<T, N> f(const std::map<T, int>& a) { return {}; }\n"
            "template <typename T>\n  requires requires(T t) { t.run(); }\n"
            "void g(T t) {}\n"
            "template <typename T>\n  requires(sizeof(T) > 4)\n"
            "void h(T t) {}\n"
            "void i(auto t) requires requires(int x) { x + 1; } {}\n"
            "template <typename T> concept C = requires(T t) { t.x(); };\n"
            "template <>\nstruct S<int, std::vector<int>> { void j() {} };\n"
            "template <typename T>\nvoid S<T>::k(int a) && {}\n"
            "auto l(int a, int b) -> std::pair<int, int> { return {a, b}; }\n"
            "std::function<Foo(int)> m(int a) { return {}; }\n"
            "decltype(auto) n() { return 1; }\n"
            "template <class T>\nint Outer<std::pair<T, int>>::Inner<T>::o(T t) { return 1; }\n"),
      "f/1@2+1 g/1@4+2 h/1@7+2 i/1@9+1 S::j/0@12+1 S::k/1@14+1 l/2@15+1 m/1@16+1 n/0@17+1 "
      "Outer::Inner::o/1@19+1");
}

TEST(FunctionScanner, ParametersAreCountedAtTheirOwnCommas) {
  const auto count = [](const std::string& parameters) {
    return find_functions("void f(" + parameters + ") {}").at(0).num_params;
  };
  EXPECT_EQ(count(""), 0);
  EXPECT_EQ(count("void"), 0);
  EXPECT_EQ(count("void* p"), 1);
  EXPECT_EQ(count("int a, int b, int c, int d, int e"), 5);
  EXPECT_EQ(count("int a, int b, int c, int d, int e, int f"), 6);
  EXPECT_EQ(count("std::map<int, std::pair<int, int>> a, int b"), 2);
  EXPECT_EQ(count("void (*p)(int, int), std::function<void(int, int)> q"), 2);
  EXPECT_EQ(count("int a = g(1, 2), std::vector<int> b = {1, 2}, int c = 1 < 2, char d = ','"), 4);
  EXPECT_EQ(count("const char* a = \"(,\", int (&b)[3], int c[2] = {}"), 3);
  EXPECT_EQ(count("int a,  // why, and (why\n int b /* , */"), 2);
  EXPECT_EQ(count("std::pair<int, int> a = std::pair<int, int>(1, 2), Args&&... args"), 2);
}

TEST(FunctionScanner, LambdasBelongToWhatIsAroundThem) {
  EXPECT_EQ(found("void f() {\n  auto g = [](int a, int b, int c, int d, int e, int h) {\n  };\n"
                  "  struct Local { void run(int a) {} };\n}\n"),
            "f/0@1+5");
  EXPECT_EQ(found("const auto table = [](int a) {\n  return a;\n};\n"
                  "static auto none = [] { return 1; };\n"
                  "auto any = []<typename T>(T a, T b) -> int { return 1; };\n"
                  "int x = [](int a) { return a; }(3);\n"),
            "table/1@1+3 none/0@4+1 any/2@5+1 x/1@6+1");
}

TEST(FunctionScanner, TextIsNotCode) {
  EXPECT_EQ(found("// void a() {\n/* void b() {\n */\n"
                  "#define BODY(x) \\\n  void c(int x) { \\\n  }\n"
                  "#if defined(X)  // {\n#endif\n"
                  "const char* kText = \"void d() {\";\n"
                  "const char* kRaw = R\"x(void e() { \" )\" })x\";\n"
                  "char brace = '{', quote = '\"', escaped = '\\'';\n"
                  "int big = 1'000'000;\n"
                  "int values[] = {1, 2, 3};\n"
                  "std::map<int, int> map{{1, 2}};\n"
                  "static_assert(sizeof(int) == 4);\n"
                  "using F = void (*)(int);\n"
                  "typedef struct { int a; } G;\n"
                  "void real() {}\n"),
            "real/0@18+1");
}

TEST(FunctionScanner, AttributesMacrosAndKernels) {
  EXPECT_EQ(found("__attribute__((target(\"avx2\"))) void a(int x) {}\n"
                  "[[nodiscard]] static inline int b() { return 1; }\n"
                  "TH_KERNEL void c(int x, int y) {}\n"
                  "__global__ void __launch_bounds__(256) d(int x) {}\n"
                  "EXPORT(x) int e(int x) { return 1; }\n"
                  "alignas(64) static int f{3};\n"
                  "TEST(Suite, Name) {}\n"),
            "a/1@1+1 b/0@2+1 c/2@3+1k d/1@4+1k e/1@5+1 TEST/2@7+1");
}

TEST(FunctionScanner, BracketsThatDoNotPairAreNamed) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      find_functions(text);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message("#if A\nvoid f(int a) {\n#else\nvoid f() {\n#endif\n}\n"),
            "line 2: '{' is not closed");
  EXPECT_EQ(message("\n}\n"), "line 2: '}' closes nothing");
  EXPECT_EQ(message("void f(]\n"), "line 1: ']' closes nothing");
}

std::string function_of(int num_lines) {
  std::string text = "template <typename T>\nvoid f(\n    int a) {\n";
  for (int i = 3; i < num_lines; ++i) text += "\n";
  return text + "}\n";
}

class FunctionCheck {
 public:
  Lines run(const std::string& path, const std::string& text, const std::string& list = "") {
    Exceptions exceptions("list.txt", list);
    return check_functions({{path, parse_source(text)}},
                           Rooms::parse("core/ops:\ndata:\ntests: *\n"), exceptions);
  }
};

TEST(FunctionChecker, SixtyLinesAndFiveParameters) {
  FunctionCheck check;
  EXPECT_EQ(check.run("data/a.cpp", function_of(60)), Lines{});
  EXPECT_EQ(check.run("data/a.cpp", function_of(61)),
            (Lines{"data/a.cpp:2: f: 61 lines, at most 60"}));
  EXPECT_EQ(check.run("data/a.h", "struct A {\n  A(int, int, int, int, int) {}\n};\n"), Lines{});
  EXPECT_EQ(check.run("data/a.h", "struct A {\n  A(int, int, int, int, int, int) {}\n};\n"),
            (Lines{"data/a.h:2: A::A: 6 parameters, at most 5"}));
  EXPECT_EQ(check.run("tests/a.cpp", function_of(61)), Lines{});
}

TEST(FunctionChecker, ExceptionsMustBeNeeded) {
  FunctionCheck check;
  EXPECT_EQ(check.run("data/a.cpp", function_of(61), "data/a.cpp: f: a table\n"), Lines{});
  EXPECT_EQ(check.run("data/a.cpp", function_of(60), "data/a.cpp: f: a table\n"),
            (Lines{"list.txt: data/a.cpp: f needs no leave, remove the entry"}));
}

TEST(FunctionChecker, KernelsMayHaveLeaveForParametersOnly) {
  FunctionCheck check;
  const std::string six = "(int, int, int, int, int, int)";
  const std::string leave = "core/ops/cuda/*.cu: kernels: passed one by one\n";
  const std::string kernel = "TH_KERNEL void k" + six + " {";
  EXPECT_EQ(check.run("core/ops/cuda/a.cu", kernel + "}", leave), Lines{});
  EXPECT_EQ(check.run("core/ops/cuda/a.cu", kernel + "}"),
            (Lines{"core/ops/cuda/a.cu:1: k: 6 parameters, at most 5"}));
  EXPECT_EQ(check.run("core/ops/cuda/a.cu", "void f" + six + " {}", leave).size(), 2u);
  EXPECT_EQ(check.run("core/ops/cuda/a.cpp", kernel + "}", leave).size(), 2u);
  EXPECT_EQ(check.run("core/ops/cuda/a.cu", kernel + std::string(60, '\n') + "}", leave),
            (Lines{"core/ops/cuda/a.cu:1: k: 61 lines, at most 60"}));
}

TEST(FunctionChecker, AFileThatCannotBeReadIsABreach) {
  EXPECT_EQ(FunctionCheck().run("data/a.cpp", "void f() {"),
            (Lines{"data/a.cpp: line 1: '{' is not closed"}));
}

}  // namespace
}  // namespace thimble::house
