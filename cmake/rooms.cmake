# Rooms: a folder of src/ is a target `cabe_<room>` whose headers are named "<room>/<file>.h".
#
# The include path of a room holds one entry, a link to its own folder, and is passed on to the rooms that
# depend on it. A header of a room further down is on nobody's path, so an upward include does not compile.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
# What libcabe links, as pkg-config knows it: the target PkgConfig::NAME and its modules. The installed cabe.pc and
# cabe-config.cmake are written from this list.
set(CABE_PACKAGES JANSSON LIBARCHIVE XXHASH ICU)
set(CABE_MODULES_JANSSON jansson)
set(CABE_MODULES_LIBARCHIVE libarchive)
set(CABE_MODULES_XXHASH libxxhash)
set(CABE_MODULES_ICU icu-uc icu-i18n)
foreach(package ${CABE_PACKAGES})
  pkg_check_modules(${package} REQUIRED IMPORTED_TARGET ${CABE_MODULES_${package}})
endforeach()

add_library(cabe_flags INTERFACE)
target_compile_options(cabe_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wmissing-prototypes -Wstrict-prototypes
  $<$<BOOL:${CABE_WERROR}>:-Werror> -fno-math-errno -ffp-contract=off)
target_compile_definitions(cabe_flags INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64
  CABE_VERSION="${PROJECT_VERSION}")
target_include_directories(cabe_flags INTERFACE ${PROJECT_SOURCE_DIR}/include)
if(CABE_SANITIZE)
  target_compile_options(cabe_flags INTERFACE -fsanitize=${CABE_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(cabe_flags INTERFACE -fsanitize=${CABE_SANITIZE})
endif()
if(CABE_FUZZ) # the rooms too, or the fuzzers would not see which code an input reaches
  target_compile_options(cabe_flags INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(cabe_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
set(CABE_ROOMS "")

# cabe_room(NAME DEPS room... LIBS library...)
function(cabe_room name)
  cmake_parse_arguments(ROOM "" "" "DEPS;LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.c
       ${PROJECT_SOURCE_DIR}/src/${name}/*/*.c)
  set(paths ${PROJECT_BINARY_DIR}/rooms/${name})
  file(MAKE_DIRECTORY ${paths})
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/src/${name} ${paths}/${name} SYMBOLIC)
  if(NOT sources) # a room that has only its face so far
    add_library(cabe_${name} INTERFACE)
    target_include_directories(cabe_${name} INTERFACE ${paths})
    target_link_libraries(cabe_${name} INTERFACE cabe_flags ${ROOM_LIBS})
    foreach(dep ${ROOM_DEPS})
      target_link_libraries(cabe_${name} INTERFACE cabe_${dep})
    endforeach()
    set(CABE_ROOMS ${CABE_ROOMS} ${name} PARENT_SCOPE)
    return()
  endif()
  add_library(cabe_${name} STATIC ${sources})
  set_target_properties(cabe_${name} PROPERTIES LINKER_LANGUAGE C)
  target_include_directories(cabe_${name} PUBLIC ${paths})
  target_link_libraries(cabe_${name} PUBLIC cabe_flags ${ROOM_LIBS})
  foreach(dep ${ROOM_DEPS})
    target_link_libraries(cabe_${name} PUBLIC cabe_${dep})
  endforeach()
  # A file of kernels is compiled for the CPU level that ends its name; nothing else is.
  foreach(source ${sources})
    set(flags "")
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      if(source MATCHES "_avx2\\.c$")
        set(flags -mavx2 -mfma -mf16c)
      elseif(source MATCHES "_avx512vnni\\.c$")
        set(flags -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
      elseif(source MATCHES "_avx512\\.c$")
        set(flags -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl)
      endif()
    endif()
    if(flags)
      # Without optimisation gcc's AVX-512 intrinsics are macros, and their conversions count as ours.
      list(APPEND flags $<$<CONFIG:Debug>:-Og>)
      if(CABE_FUZZ) # no bytes from outside come here, and watched they take minutes to compile, each
        list(APPEND flags -fno-sanitize=all)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
    endif()
  endforeach()
  set(CABE_ROOMS ${CABE_ROOMS} ${name} PARENT_SCOPE)
endfunction()

# libcabe: every room above cli/, as a shared and a static library.
function(cabe_library)
  set(objects "")
  foreach(room ${CABE_ROOMS})
    get_target_property(type cabe_${room} TYPE)
    if(type STREQUAL STATIC_LIBRARY)
      list(APPEND objects $<TARGET_OBJECTS:cabe_${room}>)
    endif()
  endforeach()
  foreach(kind SHARED STATIC)
    string(TOLOWER ${kind} suffix)
    add_library(cabe_${suffix} ${kind} ${objects})
    set_target_properties(cabe_${suffix} PROPERTIES OUTPUT_NAME cabe VERSION ${PROJECT_VERSION}
                          SOVERSION 0 LINKER_LANGUAGE C)
    target_include_directories(cabe_${suffix} INTERFACE
      $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
      $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
    target_link_libraries(cabe_${suffix} PRIVATE Threads::Threads m ${CMAKE_DL_LIBS})
    foreach(package ${CABE_PACKAGES})
      target_link_libraries(cabe_${suffix} PRIVATE PkgConfig::${package})
    endforeach()
    if(CABE_SANITIZE)
      target_link_options(cabe_${suffix} PRIVATE -fsanitize=${CABE_SANITIZE})
    endif()
  endforeach()
endfunction()

# The program, the public headers, both libraries, and what pkg-config, CMake, man and bash need to find them.
function(cabe_install)
  include(CMakePackageConfigHelpers)
  set(package ${CMAKE_INSTALL_LIBDIR}/cmake/cabe)
  set_target_properties(cabe_shared PROPERTIES EXPORT_NAME cabe)
  set_target_properties(cabe_static PROPERTIES EXPORT_NAME static)

  install(TARGETS cabe_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(TARGETS cabe_shared cabe_static EXPORT cabe-targets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY include/cabe DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
  install(EXPORT cabe-targets NAMESPACE cabe:: DESTINATION ${package})

  set(CABE_PC_LIBRARIES "")
  set(CABE_CONFIG_PACKAGES "")
  foreach(package ${CABE_PACKAGES})
    foreach(library ${${package}_LIBRARIES})
      string(APPEND CABE_PC_LIBRARIES " -l${library}")
    endforeach()
    list(JOIN CABE_MODULES_${package} " " modules)
    string(APPEND CABE_CONFIG_PACKAGES "cabe_find_package(${package} ${modules})\n")
  endforeach()
  configure_package_config_file(cmake/cabe-config.cmake.in ${PROJECT_BINARY_DIR}/cabe-config.cmake
    INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO)
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/cabe-config-version.cmake
    COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/cabe-config.cmake ${PROJECT_BINARY_DIR}/cabe-config-version.cmake
          DESTINATION ${package})

  # From the folder of cabe.pc up to the prefix, so that an installed tree can be moved.
  file(RELATIVE_PATH CABE_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(cmake/cabe.pc.in ${PROJECT_BINARY_DIR}/cabe.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/cabe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

  file(GLOB pages CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/*.1)
  install(FILES ${pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  # systemd knows neither the prefix nor a relative program: the unit names it.
  configure_file(docs/systemd/cabe.service.in ${PROJECT_BINARY_DIR}/cabe.service @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/cabe.service docs/systemd/cabe.socket
          DESTINATION ${CMAKE_INSTALL_PREFIX}/lib/systemd/system)
  install(FILES docs/completion/cabe.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
          RENAME cabe)
endfunction()
